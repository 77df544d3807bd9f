"""`dovetail` run as a user runs it: a process of its own, with pipes or on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

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
    return {**kept, "COLUMNS": "80", "TERM": "xterm-256color", **settings}


def dovetail(*words: str | Path, cwd: Path | None = None, **settings: str) -> Answer:
    """Runs one command with its output piped."""
    return python("-m", "dovetail", *words, cwd=cwd, **settings)


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
    with subprocess.Popen(
        [sys.executable, "-m", "dovetail", *map(str, words)],
        cwd=cwd,
        env=surroundings(**settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
    return Answer(process.returncode, shown.decode().replace("\r\n", "\n"), "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so (EIO) when the other side has closed
        return b""
