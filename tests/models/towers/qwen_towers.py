"""What the tests of the Qwen towers share: weights by our names, and images as patches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.declare.part import Part
from dovetail.names import Template

# frames, rows, columns of patches, in multiples of what a merger joins each way
GRIDS = [[1, 2, 3], [1, 5, 1], [2, 3, 7], [1, 1, 1], [1, 2, 3]]


def filled(module: nn.Module, part: Part, theirs: Mapping[str, Tensor]) -> nn.Module:
    """The module with the weights that another one holds under the hub's names of the part, none left over."""
    left, state = dict(theirs), {}
    for row in part.rows("hf"):
        for name in theirs:
            if (fields := row.stored.parse(name)) is not None:
                state[Template(row.leaves[0]).format(**fields)] = left.pop(name)
    assert not left
    module.load_state_dict(state)
    return module.eval()


def patches(grids: list[list[int]], merge: int, values: int) -> tuple[Tensor, Tensor]:
    """Patches of random values, and the grids that they fill, in patches."""
    grid = torch.tensor([[frames, rows * merge, columns * merge] for frames, rows, columns in grids])
    generator = torch.Generator().manual_seed(7)
    return torch.randn(int(grid.prod(-1).sum()), values, generator=generator), grid


def part_of(theirs: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, without it."""
    found = theirs.state_dict().items()
    return {name.removeprefix(prefix): one for name, one in found if name.startswith(prefix)}


def config_of(cls: Any, **values: Any) -> Any:
    """A config with what the tests do not vary."""
    return cls(frames=2, channels=3, norm_eps=1e-6, **values)
