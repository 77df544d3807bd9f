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
    """The journal of a folder that is being written; what a kill tore off at its end is cut off."""

    def __init__(self, folder: str, plan: str) -> None:
        self._path = os.path.join(folder, NAME)
        first, self.tensors, end = _read(self._path)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._fd, end)
        if first is None:
            self._add(plan=plan)

    def add(self, file: str, tensor: str, entry: Entry) -> None:
        """Notes that a tensor is in its file."""
        stored = {"stored": entry.stored} if entry.stored else {}
        self._add(file=file, tensor=tensor, start=entry.start, leaves=dict(entry.leaves), **stored)

    def _add(self, **line: Any) -> None:
        os.write(self._fd, json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_same_plan(folder: str, plan: str) -> None:
    """Refuses to go on with what another plan has begun, and with what no run has.

    Raises:
        UsageError: `folder` is not what a killed run of this plan left.
    """
    first, _, _ = _read(os.path.join(folder, NAME))
    if first is None and set(os.listdir(folder)) - {NAME}:
        raise UsageError(
            f"`{folder}` has no journal that says what was written into it",
            hint="if nothing in it is needed, remove it and run without --resume",
        )
    if first is not None and first != plan:
        raise UsageError(
            f"`{folder}` was begun with other options, or of a source that has changed since",
            hint="repeat the command that began it, or remove the folder",
        )


def _read(path: str) -> tuple[str | None, dict[tuple[str, str], Entry], int]:
    """The plan, the tensors, and how many bytes of whole lines there are."""
    plan, tensors, end = None, dict[tuple[str, str], Entry](), 0
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for text in file:
            try:
                line = json.loads(text.decode("utf-8", "surrogatepass"))
                if plan is None:
                    plan = str(line["plan"])
                else:
                    entry = Entry(int(line["start"]), dict(line["leaves"]), line.get("stored"))
                    tensors[line["file"], line["tensor"]] = entry
            except (ValueError, KeyError, TypeError):
                break
            if not text.endswith(b"\n"):
                break
            end += len(text)
    return plan, tensors, end
