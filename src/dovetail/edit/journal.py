"""What a run has put on the disk so far: one line of JSON for each tensor, so that a killed run goes on.

The first line names the plan. A line is trusted only after the bytes it speaks of were read again.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from dovetail.errors import UsageError

NAME = "journal.jsonl"


class Entry(NamedTuple):
    """One tensor that is in its file: where, and the hash of each leaf in it."""

    start: int
    leaves: Mapping[str, str]
    stored: str | None = None


class Journal:
    """The journal of a folder that is being written."""

    def __init__(self, folder: str, plan: str) -> None:
        self._path = os.path.join(folder, NAME)
        self.tensors: dict[tuple[str, str], Entry] = {}
        self.files: set[str] = set()
        for line in _lines(self._path)[1:]:
            if "tensor" in line:
                entry = Entry(line["start"], line["leaves"], line.get("stored"))
                self.tensors[line["file"], line["tensor"]] = entry
            else:
                self.files.add(line["file"])
        is_new = not os.path.exists(self._path)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if is_new:
            self._add(plan=plan)

    def add_tensor(self, file: str, tensor: str, entry: Entry) -> None:
        """Notes that a tensor is in its file."""
        stored = {"stored": entry.stored} if entry.stored else {}
        self._add(file=file, tensor=tensor, start=entry.start, leaves=dict(entry.leaves), **stored)

    def add_file(self, file: str) -> None:
        """Notes that a file is complete."""
        self._add(file=file)

    def _add(self, **line: Any) -> None:
        os.write(self._fd, json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def remove(self) -> None:
        """Takes the journal away: the folder is complete."""
        self.close()
        os.unlink(self._path)

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_same_plan(folder: str, plan: str) -> None:
    """Refuses to go on with what another plan has begun.

    Raises:
        UsageError: it has, or the sources have changed since.
    """
    lines = _lines(os.path.join(folder, NAME))
    if lines and lines[0].get("plan") != plan:
        raise UsageError(
            f"`{folder}` was begun with other options, or of a source that has changed since",
            hint="remove it, or repeat the command that began it",
        )


def _lines(path: str) -> list[dict[str, Any]]:
    """The whole lines of a journal; the last one may have been cut off."""
    lines = []
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for text in file:
            with suppress(ValueError):
                lines.append(json.loads(text))
    return lines
