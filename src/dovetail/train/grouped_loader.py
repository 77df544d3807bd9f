"""A data loader whose batches are groups of samples: for packing, or of like lengths.

The groups of an epoch follow from the lengths, the seed and the number of the epoch. Every process makes all
of them and takes its own; where they do not divide, the first ones are read once more, as accelerate does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from dovetail.data.grouping import Groups, grouped_by_length, grouped_to_budget

Grouping = Callable[[int], Groups]


class GroupSampler:
    """The groups of one process in the order of an epoch."""

    batch_size = None
    drop_last = False

    def __init__(self, grouping: Grouping, *, process: int = 0, processes: int = 1) -> None:
        self.grouping, self.process, self.processes = grouping, process, processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Makes the groups of another epoch."""
        groups = list(self.grouping(epoch))
        each = math.ceil(len(groups) / self.processes)
        filled = groups + groups[: each * self.processes - len(groups)]
        self.groups = filled[self.process :: self.processes]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.groups)


class GroupedLoader(DataLoader[Any]):
    """A data loader over groups that knows of epochs."""

    def set_epoch(self, epoch: int) -> None:
        """Makes the groups of another epoch."""
        sampler: Any = self.batch_sampler
        sampler.set_epoch(epoch)


def to_budget(lengths: Sequence[int], budget: int, seed: int) -> Grouping:
    """Groups of at most so many tokens."""
    return lambda epoch: grouped_to_budget(lengths, budget, seed=seed, epoch=epoch)


def by_length(lengths: Sequence[int], size: int, seed: int) -> Grouping:
    """Groups of so many samples of like lengths."""
    return lambda epoch: grouped_by_length(lengths, size, seed=seed, epoch=epoch)


def grouped_loader(
    data: Dataset[Any] | Sequence[Any], grouping: Grouping, *, process: int, processes: int, **settings: Any
) -> GroupedLoader:
    """The loader of one process; `settings` are those of `torch.utils.data.DataLoader`."""
    sampler: Any = GroupSampler(grouping, process=process, processes=processes)
    return GroupedLoader(data, batch_sampler=sampler, **settings)  # type: ignore[arg-type]
