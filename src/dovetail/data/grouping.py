"""Which samples make a batch: as many as fill a number of tokens, or samples of like lengths.

    to a budget     groups for packing: no group has more tokens than the budget, and few have many fewer
    by length       batches of a fixed size in which little is padding

Both are pure functions of lengths, seed and epoch: every process makes the same groups, and a run that is
resumed goes on at a position, without having to remember anything else.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from dovetail.errors import UsageError

Group = tuple[int, ...]
# how many samples are put into groups among themselves: enough to fill gaps, few enough to stay random
_WINDOW = 1024
_BATCHES = 50  # the same in batches, as transformers' LengthGroupedSampler has it


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one epoch, in order. `after` goes on behind those that are done."""

    groups: Sequence[Group]
    position: int = 0

    def after(self, position: int) -> "Groups":
        """The groups from a position on; an epoch that is done has none left.

        Raises:
            UsageError: there is no such position.
        """
        if not 0 <= position <= len(self.groups):
            raise UsageError(
                f"an epoch of {len(self.groups)} batches has no batch {position}",
                hint="the data or the budget is another than when the run began; start it anew",
            )
        return Groups(self.groups, position)

    def __len__(self) -> int:
        return len(self.groups) - self.position

    def __iter__(self) -> Iterator[list[int]]:
        for group in self.groups[self.position :]:
            yield list(group)


def grouped_to_budget(lengths: Sequence[int], budget: int, *, seed: int = 0, epoch: int = 0) -> Groups:
    """Groups of samples with at most `budget` tokens together, in random order.

    Raises:
        UsageError: a sample has more by itself.
    """
    sizes = _checked(lengths)
    too_long = np.flatnonzero(sizes > budget)
    if len(too_long):
        raise UsageError(
            f"sample {too_long[0]} has {sizes[too_long[0]]:,} tokens, and {budget:,} are packed into a batch",
            hint=f"pack at least {sizes.max():,}, or leave longer samples out by --max-length {budget}",
        )
    order = _drawn(seed, epoch).permutation(len(sizes))
    groups = [
        group
        for start in range(0, len(order), _WINDOW)
        for group in _filled(order[start : start + _WINDOW], sizes, budget)
    ]
    return _shuffled(groups, seed, epoch)


def grouped_by_length(lengths: Sequence[int], batch_size: int, *, seed: int = 0, epoch: int = 0) -> Groups:
    """Batches of `batch_size` samples of like lengths, in random order; one may be smaller.

    Raises:
        UsageError: the size is none.
    """
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} samples is none", hint="give 1 or more")
    sizes = _checked(lengths)
    order = _drawn(seed, epoch).permutation(len(sizes))
    window = batch_size * _BATCHES
    groups = []
    for start in range(0, len(order), window):
        near = order[start : start + window]
        near = near[np.argsort(-sizes[near], kind="stable")]
        groups += [_group(near[i : i + batch_size]) for i in range(0, len(near), batch_size)]
    return _shuffled(groups, seed, epoch)


def _filled(near: Int64[np.ndarray, " n"], sizes: Int64[np.ndarray, " all"], budget: int) -> list[Group]:
    """Samples put into few groups: the longest first, each where it leaves the least room (best fit
    decreasing: at most 11/9 of the fewest groups and 4 more; D. S. Johnson, SIAM J. Comput. 3, 1974)."""
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # the room that is left in a group, and its number; ascending
    for index in near[np.argsort(-sizes[near], kind="stable")].tolist():
        size = int(sizes[index])
        at = bisect_left(rooms, (size, 0))
        if at < len(rooms):
            room, group = rooms.pop(at)
        else:
            room, group = budget, len(groups)
            groups.append([])
        groups[group].append(index)
        insort(rooms, (room - size, group))
    return [tuple(group) for group in groups]


def _shuffled(groups: Sequence[Group], seed: int, epoch: int) -> Groups:
    order = _drawn(seed, epoch, 1).permutation(len(groups))
    return Groups(tuple(groups[i] for i in order))


def _drawn(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(numbers))))


def _group(indices: Int64[np.ndarray, " n"]) -> Group:
    return tuple(indices.tolist())


def _checked(lengths: Sequence[int]) -> Int64[np.ndarray, " n"]:
    sizes = np.fromiter(lengths, np.int64, len(lengths))  # an array of `q` would keep its own type
    assert sizes.ndim == 1
    assert (sizes > 0).all(), "a row has at least one token"
    return sizes
