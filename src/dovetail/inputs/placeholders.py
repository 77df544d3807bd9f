"""Image placeholders: one token id that stands for all features of an image, once each.

A row may come with one placeholder for each image, or already expanded:

    tokens      5 IMG 7 IMG 9     or     5 IMG IMG IMG 7 IMG IMG 9
    features      3     2
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from dovetail.errors import UsageError

Item = TypeVar("Item")


def expand(row: Sequence[int], placeholder: int, counts: Sequence[int]) -> list[int]:
    """The row with a placeholder for each feature of its images; an expanded row as it is.

    Raises:
        UsageError: there are neither as many placeholders as images, nor as many as features.
    """
    found = list(row).count(placeholder)
    if found == sum(counts):
        return list(row)
    if found != len(counts):
        raise UsageError(
            f"a row holds token {placeholder} {found} times",
            expected=f"{len(counts)} (one for each image) or {sum(counts)} (one for each feature)",
            hint="put the image token once where each image belongs",
        )
    left = iter(counts)
    return list(_expanded(row, placeholder, left))


def _expanded(row: Sequence[int], placeholder: int, counts: Iterator[int]) -> Iterator[int]:
    for token in row:
        if token == placeholder:
            yield from [token] * next(counts)
        else:
            yield token


def one_each(rows: Sequence[object], given: Sequence[Sequence[Item]], what: str) -> Sequence[Sequence[Item]]:
    """What is given for each row (`images`), nothing for all of them where nothing is given.

    Raises:
        UsageError: it is given for another number of rows.
    """
    if given and len(given) != len(rows):
        raise UsageError(
            f"{what} are given for {len(given)} rows, there are {len(rows)}",
            hint=f"give one list of {what} for each row, empty for a row without any",
        )
    return given or [()] * len(rows)
