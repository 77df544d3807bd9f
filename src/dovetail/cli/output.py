"""What every verb does with its result, and a bar for those that take a while."""

import json
import sys
from typing import Any


def print_json(value: Any) -> None:
    """JSON to stdout, in the documented key order."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate of a hostile name becomes `\udc80`, which is how JSON writes it.
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


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
