"""The layers of a part, by number; where they read alike they are printed once."""

from collections.abc import Iterable
from itertools import groupby

from torch import nn


class Blocks(nn.ModuleDict):
    """Layers under numbers of their own, which they keep where only some of them are (a stage of a pipeline
    has 14 to 27).

    >>> Blocks({"3": nn.Linear(2, 2), "4": nn.Linear(2, 2), "5": nn.Linear(2, 1)})
    Blocks(
      (3-4): 2 x Linear(in_features=2, out_features=2, bias=True)
      (5): Linear(in_features=2, out_features=1, bias=True)
    )
    """

    def __repr__(self) -> str:
        return _printed(type(self).__name__, self.items())


class Chain(nn.Sequential):
    """Layers run one after the other, numbered from 0."""

    def __repr__(self) -> str:
        return _printed(type(self).__name__, self.named_children())


def _printed(name: str, layers: Iterable[tuple[str, nn.Module]]) -> str:
    """Layers as torch prints them, neighbours that read alike on one line."""
    lines = []
    for text, run in groupby(layers, key=lambda item: repr(item[1])):
        numbers = [number for number, _ in run]
        first, last = numbers[0], numbers[-1]
        label = f"({first})" if first == last else f"({first}-{last})"
        times = "" if first == last else f"{len(numbers)} x "
        lines.append(f"  {label}: {times}" + text.replace("\n", "\n  "))
    return "\n".join((f"{name}(", *lines, ")")) if lines else f"{name}()"
