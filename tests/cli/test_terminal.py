"""On a terminal rich draws tables and colours; NO_COLOR and pipes go without, and lose no word."""

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
