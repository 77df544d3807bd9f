"""What every verb does with its result, and a bar for those that take a while."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from dovetail.errors import DovetailError

# What a terminal obeys: controls other than line break and tab, and marks that turn the direction of text.
# Joiners and marks of single letters stay, or scripts and emoji that need them could not be read.
_OBEYED = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def print_json(value: Any) -> None:
    """JSON to stdout, in the documented key order."""
    from dovetail.render.json_text import json_text

    sys.stdout.write(json_text(value))


def say(text: str, style: str = "") -> None:
    """One line of talk to stderr, with what does not print as its escape."""
    from dovetail.render.page import Line
    from dovetail.render.terminal import show

    show([Line(text, style)], sys.stderr)


def say_error(error: DovetailError) -> None:
    """An error on stderr: what, where, expected against found, and the next step."""
    from dovetail.render.layout import wrapped
    from dovetail.render.terminal import painted, width_of

    width = width_of(sys.stderr)
    for i, (lead, text) in enumerate(error.lines):
        start = painted("error:", "error", sys.stderr) + " " if i == 0 else lead
        hang = 7 if i == 0 else len(lead)
        first, *others = wrapped(" " * hang + text, width, hang=hang)
        print(start + first[hang:], *others, sep="\n", file=sys.stderr)


def print_text(text: str) -> None:
    """Text of a model to stdout, at once: as it is into a pipe or file, harmless on a terminal."""
    sys.stdout.write(without_controls(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def without_controls(text: str) -> str:
    r"""Text of many lines with what a terminal obeys as its escape.

    >>> without_controls("one\n\x1b]52;c;aGk=\x07two")
    'one\n\\x1b]52;c;aGk=\\x07two'
    """
    return re.sub(_OBEYED, lambda match: ascii(match[0])[1:-1], text)


def command_line(words: Sequence[str]) -> str:
    """The command as a page shows it: addresses without the secrets that they may hold.

    >>> command_line(["diff", "https://me:secret@host/a?key=1", "--report=my page"])
    "dovetail diff https://host/a '--report=my page'"
    """
    from shlex import quote

    from dovetail.store.open import shown_path

    pieces = ["dovetail"]
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        pieces.append(quote(f"{option}{equals}{shown_path(value)}"))
    return " ".join(pieces)


def prepare_folder(path: str) -> None:
    """Makes the folder of a report, or says why it cannot be.

    Raises:
        WriteError: the place cannot be written to.
    """
    import os

    from dovetail.errors import WriteError

    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"cannot make the folder `{path}`: {error.strerror}", hint="choose another place"
        ) from error


class ProgressBar:
    """A bar on stderr that appears when first told bytes done and bytes in all; a terminal only."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            if not sys.stderr.isatty():
                return
            self._bar = self._make(total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def _make(self, total: int) -> Any:
        return _bar(self._what, total)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class StageBar(ProgressBar):
    """The same for things that are counted, not measured in bytes."""

    def _make(self, total: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn(self._what), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task(self._what, total=total)
        return bar


def _bar(what: str, total: int) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(what, total=total)
    return bar
