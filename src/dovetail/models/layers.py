"""The layers that several models share. None has initial values: weights come from a checkpoint.

b  batch      n  tokens      d  width
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.models.products import Product


class Linear(nn.Linear):
    """torch's, without the initial values (on `meta` they cost more than the layer).

    With a `product` (`kernels.py`), it computes in another kernel than torch's own.
    """

    product: Product | None = None

    def reset_parameters(self) -> None:
        """Leaves the weight as it is."""

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... n"]:
        return super().forward(x) if self.product is None else self.product(x)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}{'' if self.bias is None else ', bias'}"


# A `Linear`, or the layer of peft that stands in its place once it is adapted.
Adaptable = Any


class Embedding(nn.Embedding):
    """torch's, without the initial values (torch@2.13 loads its decompositions to draw them on `meta`)."""

    def reset_parameters(self) -> None:
        """Leaves the weight as it is."""


class LayerNorm(nn.LayerNorm):
    """torch's, without the initial values."""

    def reset_parameters(self) -> None:
        """Leaves the weight as it is."""

    def extra_repr(self) -> str:
        return f"{', '.join(map(str, self.normalized_shape))}, eps={self.eps}"


class Conv2d(nn.Conv2d):
    """torch's, without the initial values."""

    def reset_parameters(self) -> None:
        """Leaves the weight as it is."""


class RMSNorm(nn.Module):
    """`x / rms(x) * weight`, the mean in float32, the product in the type of `x` (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.weight.to(x.dtype) * unit_rms(x, self.eps).to(x.dtype)


def unit_rms(x: Float[Tensor, "... d"], eps: float) -> Float[Tensor, "... d"]:
    """`x` at a root mean square of 1, in float32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)


def quick_gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """CLIP's approximation of the GELU, `x sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The tanh approximation of the GELU (arXiv:1606.08415)."""
    return F.gelu(x, approximate="tanh")


Activation = Callable[[Tensor], Tensor]

# The spellings of transformers' config files (transformers@5.23.0 activations.py:ACT2CLS).
ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "gelu_new": tanh_gelu,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
}


def activation(name: str) -> Activation:
    """The activation of a name.

    Raises:
        UsageError: it is none that any of our models uses.
    """
    if name not in ACTIVATIONS:
        raise UsageError(
            f"no activation is called `{name}`", hint=f"there are: {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]
