"""How far a tensor is from the one that it should be.

Three measures, because each is blind to something: the Pearson correlation (PCC) to scale and offset,
the largest difference to where it is, the relative norm to single outliers. A tensor that is constant has
no correlation with anything: its PCC is not a number and never 1, and it is good only if it is equal.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """The distance of a candidate from its reference. `pcc` is NaN where one of the two is constant."""

    pcc: float
    max_abs: float
    relative: float
    num_bad: int = 0

    @property
    def is_constant(self) -> bool:
        """Whether there is no correlation to speak of."""
        return math.isnan(self.pcc)

    def as_json(self) -> dict[str, float | int | None]:
        """The measures as plain JSON values; what is no number is null."""
        return {
            "pcc": _finite(self.pcc),
            "max_abs": _finite(self.max_abs),
            "relative_norm": _finite(self.relative),
            "not_finite": self.num_bad,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The least correlation and the largest relative norm of a difference that pass."""

    pcc: float
    relative: float

    def passes(self, distance: Distance) -> bool:
        """Whether a distance is small enough."""
        if distance.num_bad:
            return False
        if distance.is_constant:
            return distance.max_abs == 0
        return distance.pcc >= self.pcc and distance.relative <= self.relative


def distance(candidate: Tensor, reference: Tensor) -> Distance:
    """How far the candidate is from the reference, in float64. Shapes must agree."""
    a, b = candidate.detach().double().flatten().cpu(), reference.detach().double().flatten().cpu()
    num_bad = int((~torch.isfinite(a) & torch.isfinite(b)).sum())
    if num_bad or not a.numel():
        return Distance(pcc=math.nan, max_abs=math.nan, relative=math.nan, num_bad=num_bad)
    difference = float((a - b).abs().max())
    norm = float(b.norm())
    relative = float((a - b).norm()) / norm if norm else (0.0 if difference == 0 else math.inf)
    return Distance(pcc=_correlation(a, b), max_abs=difference, relative=relative)


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
