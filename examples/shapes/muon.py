"""Muon: steps of matrices whose singular values are all about 1 (Keller Jordan, `KellerJordan/Muon`).

The momentum of a matrix is brought near the closest orthogonal one by five steps of an iteration. Matrices
of one shape go through it together, which for small ones is several times as fast as one after the other.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon:
    """Steps of matrices, each with the number of matrices that it holds one below the other (q, k, v: 3)."""

    def __init__(
        self, matrices: Iterable[tuple[Tensor, int]], *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        self._momentum, self._decay = momentum, weight_decay
        self._groups: dict[tuple[int, int], list[tuple[Tensor, int]]] = {}
        for one, pieces in matrices:
            self._groups.setdefault((one.shape[0] // pieces, one.shape[1]), []).append((one, pieces))
        self._moving = {
            shape: torch.zeros(sum(pieces for _, pieces in group), *shape)
            for shape, group in self._groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves each matrix along its momentum; `rate` is for square ones, tall ones go further."""
        for shape, group in self._groups.items():
            gradients = torch.cat([_gradient(one).reshape(pieces, *shape) for one, pieces in group])
            moving = self._moving[shape].lerp_(gradients, 1 - self._momentum)
            turned = orthogonal(gradients.lerp(moving, self._momentum)).float()
            length = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            split = turned.split([pieces for _, pieces in group])
            for (one, _), of_one in zip(group, split, strict=True):
                one.mul_(1 - rate * self._decay).sub_(of_one.reshape(one.shape), alpha=length)


def _gradient(one: Tensor) -> Tensor:
    assert one.grad is not None, "a step needs gradients"
    return one.grad


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors and singular values between about 0.7 and 1.2, in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315  # of the odd polynomial that is applied to the singular values
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
