"""torch as it is, in another dtype or on another device."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.loading.load import usable_device
from dovetail.parity.backends import Runner
from dovetail.parity.backends.tolerances import TOLERANCES


class Backend:
    """Runs a copy of the stage."""

    name = "eager"
    note: str | None = None

    def __init__(self, *, dtype: str = "float32", device: str = "cpu") -> None:
        if dtype not in TOLERANCES:
            raise UsageError(f"eager does not run in {dtype}", hint=f"dtypes: {', '.join(TOLERANCES)}")
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = usable_device(device)
        self.tolerance = TOLERANCES[dtype]

    def compile(self, stage: nn.Module, example: tuple[Tensor, ...]) -> Runner:
        """The copy, with inputs and outputs taken there and back."""
        return around(self.copied(stage), self.dtype, self.device)

    def copied(self, stage: nn.Module) -> nn.Module:
        """The stage in the dtype, on the device."""
        return deepcopy(stage).to(self.device, self.dtype)


def around(stage: nn.Module, dtype: torch.dtype, device: torch.device) -> Runner:
    """A stage in a dtype and on a device, as a function of float32 tensors on the cpu."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        there = (one.to(device, dtype) if one.is_floating_point() else one.to(device) for one in tensors)
        with torch.no_grad():
            found = stage(*there)
        return tuple(one.float().cpu() for one in found)

    return run
