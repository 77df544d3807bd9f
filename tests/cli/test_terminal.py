"""On a terminal there are rules and colours, and lines of its width; NO_COLOR and pipes go without, and lose no word."""

import re
from pathlib import Path

import checkpoints as some
import pytest

from commands import dovetail, on_terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*?(?:3[0-7]|9[0-7]|4[0-7]|38|48)(?:;[0-9;]*)?m")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
WIDE = {"COLUMNS": "200"}


def words(text: str) -> list[str]:
    """What a page says, whatever draws it."""
    return re.sub(r"[─━\s]+", " ", STYLE.sub("", text)).split()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    some.lost_tensor(tmp_path / "it")
    return tmp_path


def test_a_terminal_has_rules_and_colours(broken: Path) -> None:
    answer = on_terminal("validate", "it", cwd=broken, **WIDE)
    assert answer.code == 1
    assert re.search("─{20}", answer.out)
    shown = next(line for line in answer.out.splitlines() if "down_proj" in line)
    assert COLOUR.search(shown)
    assert STYLE.sub("", shown) == (
        "error: 1 of 38 tensors of text is missing: `model.layers.1.mlp.down_proj.weight`"
    )


@pytest.mark.parametrize("verb", ["inspect", "validate"])
def test_every_word_is_there_with_and_without_colour_and_piped(verb: str, broken: Path) -> None:
    drawn = on_terminal(verb, "it", cwd=broken, **WIDE)
    plain = on_terminal(verb, "it", cwd=broken, NO_COLOR="1", **WIDE)
    piped = dovetail(verb, "it", cwd=broken)
    assert COLOUR.search(drawn.out)
    assert not COLOUR.search(plain.out)
    assert words(drawn.out) == words(plain.out) == words(piped.out)
    assert "\x1b" not in piped.out
    assert "─" not in piped.out


def test_severities_are_words(broken: Path) -> None:
    """Meaning is never by colour alone."""
    plain = on_terminal("validate", "it", cwd=broken, NO_COLOR="1", **WIDE)
    assert re.findall(r"^(?:error|warning|note|not whole)\b", STYLE.sub("", plain.out), re.MULTILINE) == [
        "error",
        "error",
        "not whole",
    ]


def test_a_narrow_terminal_folds_and_loses_nothing(broken: Path) -> None:
    narrow = on_terminal("validate", "it", cwd=broken, COLUMNS="60")
    piped = dovetail("validate", "it", cwd=broken)
    assert sorted("".join(words(narrow.out))) == sorted("".join(words(piped.out)))


def test_a_dumb_terminal_gets_no_escapes(broken: Path) -> None:
    assert "\x1b" not in on_terminal("validate", "it", cwd=broken, TERM="dumb").out


def test_hostile_names_cannot_move_the_cursor(tmp_path: Path) -> None:
    some.hostile_names(tmp_path / "it")
    answer = on_terminal("inspect", "it", cwd=tmp_path, **WIDE)
    assert "\x1b[2J" not in answer.out
    assert r"\x1b[2J.weight" in answer.out


def test_a_bar_appears_while_values_are_read(tmp_path: Path) -> None:
    some.made("qwen2", "hf")(tmp_path / "it")
    assert "reading values" in on_terminal("validate", "it", "--values", cwd=tmp_path, **WIDE).out
    assert "reading values" not in dovetail("validate", "it", "--values", cwd=tmp_path).err


def test_no_name_is_broken_at_80_columns_and_lines_end_between_words(tmp_path: Path) -> None:
    """Every name and command that a pipe shows stands whole in a line; only longer words make longer lines."""
    some.made("qwen2_vl", "hf")(tmp_path / "it")
    some.lost_tensor(tmp_path / "less")
    for words in (
        ("inspect", "it"),
        ("validate", "less"),
        ("families",),
        ("--help",),
        ("diff", "it", "less"),
    ):
        shown = STYLE.sub("", on_terminal(*words, cwd=tmp_path).out)
        piped = dovetail(*words, cwd=tmp_path).out
        names = {name for name in re.findall(r"`[^`]*`|[\w.*\[\]-]+", piped) if len(name) <= 76}
        assert [name for name in names if name not in shown] == []
        assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_a_long_error_is_broken_between_words(tmp_path: Path) -> None:
    shown = STYLE.sub("", on_terminal("make", "nothing", "OUT", cwd=tmp_path).out)
    piped = dovetail("make", "nothing", "OUT", cwd=tmp_path).err
    assert len(shown.splitlines()) > len(piped.splitlines())
    assert shown.split() == piped.split()


def test_colours_may_be_forced_into_a_pipe(broken: Path) -> None:
    forced = dovetail("validate", "it", cwd=broken, FORCE_COLOR="1")
    assert COLOUR.search(forced.out)
    assert STYLE.sub("", forced.out) == dovetail("validate", "it", cwd=broken).out
    assert not COLOUR.search(dovetail("validate", "it", cwd=broken, FORCE_COLOR="1", NO_COLOR="1").out)
    assert COLOUR.search(dovetail("validate", "nothing", cwd=broken, FORCE_COLOR="1").err)


def test_a_short_list_is_shown_and_a_long_one_counted(tmp_path: Path) -> None:
    some.made("qwen2_vl", "hf")(tmp_path / "it")
    out = dovetail("inspect", "it", cwd=tmp_path).out
    assert re.search(r"^image_mean +\[0\.4815, 0\.4578, 0\.4082\]", out, re.MULTILINE)
