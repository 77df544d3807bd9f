"""Nothing that a file or a model says reaches a terminal as it is: controls and bidi marks are escaped."""

import json
import re
from pathlib import Path

import checkpoints as some
import pytest

from commands import dovetail, on_terminal
from dovetail.cli.output import without_controls
from dovetail.errors import FormatError

# What a terminal obeys: escape sequences of either width, the clipboard, a turned line.
NASTY = "a\x1b[2J\x9b2Jb\x1b]52;c;aGk=\x07c\u202ed\u2066e\x7ff"
OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_the_text_that_is_looked_for_is_found() -> None:
    assert len(OBEYED.findall(NASTY)) == 7


def test_hints_are_escaped_like_the_rest_of_a_message() -> None:
    error = FormatError(NASTY, file=NASTY, hint=f"run `it {NASTY}`\nerror: this too")
    assert OBEYED.findall(str(error)) == []
    assert str(error).count("\n") == 3


@pytest.mark.parametrize("place", ["name", "config"])
@pytest.mark.parametrize("verb", ["inspect", "validate"])
def test_json_of_a_hostile_file_is_harmless_and_says_the_same(verb: str, place: str, tmp_path: Path) -> None:
    header = some.header("qwen2", "hf")
    if place == "name":
        header[f"{NASTY}.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    some.write(tmp_path / "it", header)
    if place == "config":
        (tmp_path / "it" / "config.json").write_text(json.dumps({"model_type": NASTY, "hidden_act": NASTY}))
    answer = dovetail(verb, "it", "--json", cwd=tmp_path)
    assert OBEYED.findall(answer.out + answer.err) == []
    assert NASTY in str([*strings(json.loads(answer.out))])


def strings(value: object) -> list[str]:
    """All texts of a JSON value, with what Python's own repr would escape left as it is."""
    if isinstance(value, str):
        return [_Raw(value)]
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in strings(one)]
    return [text for one in value for text in strings(one)] if isinstance(value, list) else []


class _Raw(str):
    __slots__ = ()
    __repr__ = str.__str__


def test_a_report_in_a_session_is_harmless(tmp_path: Path) -> None:
    import dovetail as library

    header = some.header("qwen2", "hf")
    header[f"{NASTY}.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    some.write(tmp_path / "it", header)
    report = library.inspect(tmp_path / "it")
    assert any(NASTY in one.message for one in report.findings)
    assert OBEYED.findall(repr(report) + report._repr_html_()) == []


def test_a_folder_with_a_hostile_name_is_named_harmlessly(tmp_path: Path) -> None:
    folder = tmp_path / NASTY
    for words in (
        ("make", "qwen2", folder, "--sparse", "--size", "qwen2-0.5b"),
        ("validate", folder, "--report", folder),
    ):
        answer = on_terminal(*words, cwd=tmp_path)
        assert answer.code == 0, answer.out
        assert OBEYED.findall(COLOURS.sub("", answer.out)) == []


def test_a_folder_whose_name_is_no_text_is_named_too(tmp_path: Path) -> None:
    answer = dovetail("make", "qwen2", "odd\udcff", "--sparse", "--size", "qwen2-0.5b", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out.startswith(r"odd\udcff: ")


def test_an_encoding_without_a_character_does_not_stop_a_command() -> None:
    answer = dovetail("families", PYTHONPATH="", PYTHONIOENCODING="ascii")
    assert (answer.code, answer.err) == (0, "")


def test_text_of_a_model_is_harmless_on_a_terminal_only() -> None:
    assert OBEYED.findall(without_controls(NASTY)) == []
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert without_controls(f"x\n\ty \u0645\u06cc\u200c {family}") == f"x\n\ty \u0645\u06cc\u200c {family}"


def test_a_command_line_in_a_hint_quotes_the_name_of_the_file(tmp_path: Path) -> None:
    import shlex

    from dovetail.store.torchfile.read import _LEGACY_MAGIC

    name = "it'; rm -rf $HOME; '.pt"
    (tmp_path / name).write_bytes(b"\x80\x02\x8a\x0a" + _LEGACY_MAGIC + b".")
    answer = dovetail("inspect", tmp_path / name, cwd=tmp_path)
    hint = next(line for line in answer.err.splitlines() if line.startswith("hint: "))
    words = shlex.split(hint.removeprefix("hint: rewrite it: "))
    assert (words[:2], words[3:]) == (["python", "-c"], [str(tmp_path / name), "NEW.pth"])
