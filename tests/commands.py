"""`dovetail` run as a user runs it: in a process, with its output in files or on a terminal."""

import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from started import PLAIN, RUN, RUNNING, Started, ended, script

# What the surroundings of the test run must not change.
_FOREIGN = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES", "PYTHONIOENCODING")


class Answer(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


def surroundings(**settings: str) -> dict[str, str]:
    """The environment of a command: a line is 80 columns long."""
    kept = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    if "PYTHONPATH" in settings and "PYTHONPATH" in kept:  # the tests may run from a tree of their own
        settings["PYTHONPATH"] += os.pathsep + kept["PYTHONPATH"]
    return {**kept, "COLUMNS": "80", "TERM": "xterm-256color", **settings}


_PLAIN, _RUNNING = Started(PLAIN), Started(RUNNING)
_SEEDED = {seed: Started(PLAIN, PYTHONHASHSEED=seed) for seed in ("1", "4")}


def dovetail(*words: str | Path, cwd: Path | None = None, **settings: str) -> Answer:
    """Runs one command with its output in files, as a child of a process that has imported `dovetail`.

    Settings for Python itself need a process that is started with them.
    """
    if "PYTHONPATH" in settings:
        return python("-m", "dovetail", *words, cwd=cwd, **settings)
    started = _SEEDED[settings["PYTHONHASHSEED"]] if "PYTHONHASHSEED" in settings else _started(words)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
        files = (nothing.fileno(), out.fileno(), err.fileno())
        code = ended(started.begin(map(str, words), cwd or Path.cwd(), surroundings(**settings), files))
        shown = []
        for file in (out, err):
            file.seek(0)
            shown.append(file.read().decode())
    return Answer(code, *shown)


def _started(words: Sequence[str | Path]) -> Started:
    """The process that has imported what a command needs, and not much more."""
    return _RUNNING if {*RUN} & {*words} else _PLAIN


def on_path(folder: Path) -> str:
    """A PATH on which `dovetail` is a program that runs commands in such children."""
    folder.mkdir()
    script(folder / "dovetail", _PLAIN, _RUNNING)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def python(*words: str | Path, cwd: Path | None = None, **settings: str) -> Answer:
    """Runs Python with its output piped."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=surroundings(**settings),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def on_terminal(*words: str | Path, cwd: Path | None = None, **settings: str) -> Answer:
    """Runs one command on a terminal of its own; `out` is all that it shows, stderr included."""
    ours, theirs = pty.openpty()
    started = _started(words)
    child = started.begin(map(str, words), cwd or Path.cwd(), surroundings(**settings), (theirs,) * 3)
    os.close(theirs)
    shown = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    return Answer(ended(child), shown.decode().replace("\r\n", "\n"), "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so (EIO) when the other side has closed
        return b""
