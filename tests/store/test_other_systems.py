"""Systems that have less than Linux: what is missing there is made to be missing here."""

from pathlib import Path

import dovetail
from commands import python
from files import MODELS

WITHOUT = """
import os, sys
for name in {names}:
    sys.modules[name] = None
    if hasattr(os, name):
        delattr(os, name)
from dovetail.cli import main
sys.exit(main(sys.argv[1:]))
"""


def made(folder: Path) -> Path:
    dovetail.make("qwen2", folder, set=MODELS["qwen2"][0])
    return folder


def test_without_advice_for_the_cache_everything_works(tmp_path: Path) -> None:
    script = WITHOUT.format(names=["posix_fadvise"])
    done = python("-c", script, "convert", str(made(tmp_path / "a")), str(tmp_path / "b"), "--to", "litgpt")
    assert done.code == 0, done.err
    assert dovetail.diff(tmp_path / "a", tmp_path / "b", values=True).is_same


def test_without_locks_writing_is_refused_and_reading_works(tmp_path: Path) -> None:
    script, source = WITHOUT.format(names=["fcntl"]), str(made(tmp_path / "a"))
    assert python("-c", script, "inspect", source).code == 0
    refused = python("-c", script, "convert", source, str(tmp_path / "b"))
    assert refused.code == 1
    assert refused.err.splitlines()[-3:] == [
        "error: dovetail cannot write on linux, where no folder can be locked",
        "",
        "hint: run it on Linux, in WSL, or on macOS",
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a"]


def test_without_reading_at_a_place_reading_is_refused(tmp_path: Path) -> None:
    source = str(made(tmp_path / "a"))
    refused = python("-c", WITHOUT.format(names=["preadv", "O_NONBLOCK"]), "inspect", source)
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: dovetail cannot read files on linux")
