"""`log.jsonl` beside a run: a JSON line for each step that is logged, whole lines only.

A run that goes on from step 20 forgets what an earlier one logged after step 20: it will be there again.
JSON has no NaN and no infinity; they are written as the words `nan`, `inf` and `-inf`.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from dovetail.errors import FormatError, WriteError

NAME = "log.jsonl"
Entry = dict[str, Any]


class RunLog:
    """The lines of one run; `folder` is the folder of the run."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, NAME)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds a line, which is in the file when this returns.

        Raises:
            WriteError: the file cannot be written.
        """
        line = json.dumps({key: _plain(value) for key, value in entry.items()}, allow_nan=False)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise WriteError(
                f"cannot write `{self.path}`: {error.strerror}", hint="make room, or choose another folder"
            ) from error

    def keep_until(self, step: int) -> None:
        """Leaves the entries up to a step, and nothing of a line that was cut."""
        kept = [entry for entry in self.read(is_cut=True) if _step(entry) <= step]
        text = "".join(f"{json.dumps(entry, allow_nan=False)}\n" for entry in kept)
        partial = f"{self.path}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, self.path)

    def read(self, *, is_cut: bool = False) -> list[Entry]:
        """All entries; the last line may be cut where `is_cut` says so.

        Raises:
            FormatError: a line is no JSON object.
        """
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8") as file:
            lines = file.read().split("\n")
        entries: list[Entry] = []
        for i, line in enumerate(lines):
            if not line:
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                entries.append(entry)
            elif not (is_cut and i == len(lines) - 1):
                raise FormatError(
                    f"line {i + 1} of {NAME} is no JSON object", file=self.path, hint="remove the line"
                )
        return entries


def numeral(value: Any) -> float | None:
    """The number that an entry holds, NaN and infinities among them; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") else None


def _step(entry: Mapping[str, Any]) -> int:
    step = entry.get("step")
    return step if isinstance(step, int) else 0


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if hasattr(value, "item"):
        return _plain(value.item())
    return value
