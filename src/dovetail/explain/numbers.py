"""The numbers of one tensor in a line: smallest, largest, mean, spread, and how many are none."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dovetail.store.cast import to_array
from dovetail.store.store import Store


class Numbers(NamedTuple):
    """What the numbers of a tensor come to; those that are NaN or infinite are counted and left out."""

    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    infinite: int

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return self._asdict()


def numbers_of(store: Store, name: str) -> Numbers | None:
    """The numbers of a tensor, read in pieces; None where numpy has no such numbers.

    Raises:
        CheckpointError: the store has headers only.
        FormatError: the file has become shorter since it was opened.
    """
    dtype = store.entries[name].dtype
    low, high = np.inf, -np.inf
    count, mean, squares = 0, 0.0, 0.0
    zeros = nan = infinite = 0
    for block in store.blocks(name):
        try:
            numbers = to_array(block, dtype).astype(np.float64)
        except KeyError:
            return None
        nan += int(np.isnan(numbers).sum())
        infinite += int(np.isinf(numbers).sum())
        finite = numbers[np.isfinite(numbers)]
        if not finite.size:
            continue
        zeros += finite.size - int(np.count_nonzero(finite))
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        # joined as in Chan, Golub, LeVeque 1979: squares of large numbers are never subtracted
        here, both = float(finite.mean()), count + finite.size
        squares += float(np.square(finite - here).sum()) + (here - mean) ** 2 * count * finite.size / both
        mean += (here - mean) * finite.size / both
        count = both
    if not count:
        return Numbers(None, None, None, None, zeros, nan, infinite)
    return Numbers(low, high, mean, float(np.sqrt(squares / count)), zeros, nan, infinite)


def numbers_of_all(store: Store, names: list[str]) -> list[Numbers | None]:
    """The numbers of several tensors; local files are read by several threads."""
    from dovetail.store.readers import readers

    with readers(store) as read:
        return [*read(partial(numbers_of, store), names)]
