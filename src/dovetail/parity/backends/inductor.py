"""torch.compile: kernels that inductor writes."""

import torch
from torch import Tensor, nn

from dovetail.parity.backends import Runner
from dovetail.parity.backends.eager import Backend as Eager
from dovetail.parity.backends.eager import around


class Backend(Eager):
    """Compiles a copy of the stage; every shape anew, so that none is generalised."""

    name = "inductor"

    def compile(self, stage: nn.Module, example: tuple[Tensor, ...]) -> Runner:
        torch.compiler.reset()
        compiled = torch.compile(self.copied(stage), fullgraph=True, dynamic=False)
        return around(compiled, self.dtype, self.device)  # type: ignore[arg-type]
