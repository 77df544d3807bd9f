"""report.json and report.html on disk: both whole, or what was there before."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_cases import CASES, damaged, inspect, whole

from dovetail.errors import WriteError
from dovetail.render.html import report_html, write_report
from dovetail.report import Report


@pytest.mark.parametrize("case", CASES)
def test_writes_both_files_and_gives_their_paths(case: Callable[[], Any], tmp_path: Path) -> None:
    report = inspect(case(), tmp_path)
    folder = tmp_path / "deep" / "out"
    paths = write_report(report, str(folder))
    assert paths == [str(folder / "report.json"), str(folder / "report.html")]
    assert sorted(os.listdir(folder)) == ["report.html", "report.json"]
    text = (folder / "report.json").read_bytes()
    assert json.loads(text) == report.as_json()
    assert text.endswith(b"}\n")
    assert (folder / "report.html").read_text() == report_html(report)


def test_writes_json_as_the_command_line_does(tmp_path: Path) -> None:
    report = inspect(whole(), tmp_path).replace(path="modèle")
    write_report(report, str(tmp_path / "out"))
    text = (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    assert text == json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n"
    assert "modèle" in text


def test_writes_over_an_older_report(tmp_path: Path) -> None:
    write_report(inspect(damaged(), tmp_path), str(tmp_path))
    new = inspect(whole(), tmp_path)
    write_report(new, str(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text()) == new.as_json()


def refusal(report: Report, folder: Path) -> str:
    with pytest.raises(WriteError) as caught:
        write_report(report, str(folder))
    return str(caught.value)


HINT = "hint: no file was changed; give a folder that you may write to, or one that can be made"


def test_refuses_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    report = inspect(whole(), tmp_path)
    file = tmp_path / "taken"
    file.write_text("mine")
    assert refusal(report, file) == f"cannot write the report into `{file}`: it is a file\n\n{HINT}"
    below = file / "out"
    assert refusal(report, below) == f"cannot write the report into `{below}`: not a directory\n\n{HINT}"
    assert file.read_text() == "mine"


def test_refuses_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    report = inspect(whole(), tmp_path)
    out = tmp_path / "out"
    (out / "report.html").mkdir(parents=True)
    where = f"  file  {out}/report.html"
    message = f"cannot write the report into `{out}`: is a directory\n{where}\n\n{HINT}"
    assert refusal(report, out) == message
    assert os.listdir(out) == ["report.html"]


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_report_as_it_was(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = inspect(damaged(), tmp_path), inspect(whole(), tmp_path)
    old, new = tmp_path / "old", tmp_path / "new"
    write_report(older, str(old))
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    monkeypatch.setattr(os, step, fail)
    for folder in (old, new):
        said = f"cannot write the report into `{folder}`: no space left on device\n\n{HINT}"
        assert refusal(newer, folder) == said
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert not new.exists()
