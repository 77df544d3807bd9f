"""What a run has put on the disk so far: one line of JSON for each tensor, so that a run can be gone on with.

The first line names the plan. Beyond that a line only says where looking is worthwhile: whoever goes on
works the tensor out again and compares it with the file, so nothing that stands here can do harm.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from dovetail.errors import UsageError
from dovetail.store.write.partial import removal

NAME = "journal.jsonl"
_LONGEST = 1 << 20  # a line is two names


class Journal:
    """The journal of a folder that is being written; what a kill tore off at its end is cut off.

    `tensors` are those that an earlier run finished, each as its file and its name.
    """

    def __init__(self, folder: str, plan: str) -> None:
        self._path = os.path.join(folder, NAME)
        first, self.tensors, end = _read(self._path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o644)
        os.ftruncate(self._fd, end)
        if first is None:
            self._add(plan=plan)

    def add(self, file: str, tensor: str) -> None:
        """Notes that a tensor is in its file."""
        self._add(file=file, tensor=tensor)

    def _add(self, **line: Any) -> None:
        os.write(self._fd, json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def has_work(folder: str) -> bool:
    """Whether a tensor in the folder is finished."""
    return bool(_read(os.path.join(folder, NAME))[1])


def check_same_plan(folder: str, plan: str) -> None:
    """Refuses to go on with what another plan has begun, and with what no run has.

    Raises:
        UsageError: `folder` is not what a run of this plan left.
    """
    first, _, _ = _read(os.path.join(folder, NAME))
    if first is None and set(os.listdir(folder)) - {NAME}:
        raise UsageError(
            f"`{folder}` has no journal that says what was written into it",
            hint=f"if nothing in it is needed, remove it with `{removal(folder)}` and run without --resume",
        )
    if first is not None and first != plan:
        raise UsageError(
            f"`{folder}` was begun with other options, or of a source that has changed since",
            hint=f"repeat the command that began it, or remove it with `{removal(folder)}`",
        )


def _read(path: str) -> tuple[str | None, set[tuple[str, str]], int]:
    """The plan, the tensors, and how many bytes of whole lines there are."""
    plan, tensors, end = None, set[tuple[str, str]](), 0
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for text in _lines(file):
            try:
                line = json.loads(text.decode("utf-8", "surrogatepass"))
                if plan is None:
                    plan = str(line["plan"])
                else:
                    tensors.add((str(line["file"]), str(line["tensor"])))
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            end += len(text)
    return plan, tensors, end


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines, up to one that was torn off or is longer than any that a run writes."""
    while (text := file.readline(_LONGEST)).endswith(b"\n"):
        yield text
