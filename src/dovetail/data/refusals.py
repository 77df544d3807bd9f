"""What becomes of samples that cannot be used: the first ends it, or each is skipped, counted and listed.

No sample is ever replaced by another: with `skip` there are fewer, and `Refusals` says which are gone.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from dovetail.errors import DovetailError

OnError = Literal["stop", "skip"]
MOST_LISTED = 10_000  # all are counted; a manifest whose every image is elsewhere needs no longer list


class Refusal(NamedTuple):
    """A sample that cannot be used: its number in the manifest, where it stands, and why."""

    number: int
    place: str
    code: str
    message: str

    def as_json(self) -> dict[str, Any]:
        """The refusal as plain JSON values."""
        return self._asdict()


class Refusals:
    """The samples that cannot be used, in the order in which they were met."""

    def __init__(self, on_error: OnError = "stop") -> None:
        self.on_error: OnError = on_error
        self.listed: list[Refusal] = []
        self.counts: Counter[str] = Counter()
        self._numbers = array("q")

    def __len__(self) -> int:
        """How many there are, listed or not."""
        return len(self._numbers)

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of all of them in the manifest."""
        return self._numbers

    def add(self, number: int, place: str, code: str, error: DovetailError) -> None:
        """Takes note of a sample; `code` is a word for what is wrong.

        Raises:
            DovetailError: the error itself, unless samples are to be skipped.
        """
        if self.on_error == "stop":
            raise error
        self._numbers.append(number)
        self.counts[code] += 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append(Refusal(number, place, code, said(error)))

    def as_json(self) -> dict[str, Any]:
        """How many there are of each kind, and the first of them."""
        return {
            "refused": len(self),
            "counts": dict(self.counts),
            "listed": [one.as_json() for one in self.listed],
        }


def said(error: DovetailError) -> str:
    """An error in one line, without its place and hint."""
    details = [f"{key} {value}" for key, value in error.details.items() if key not in ("file", "record")]
    return f"{error.message} ({', '.join(details)})" if details else error.message
