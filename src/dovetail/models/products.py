"""The product of activations with one weight, in the ways that a CPU has: made once, and copied as they are.

torch's `linear` in bfloat16 is bound neither by memory, as a product with few rows should be, nor by
arithmetic, as one with many should be (docs/decisions/0009-products.md has the measures):

    way         few rows                                 many rows                        the weight is
    stored      torch's `linear`                         float32, a block at a time       left where it is
    onednn      oneDNN's bf16 kernels, laid out once for them                             copied once
    fbgemm      FBGEMM's kernels for weights of 16 bits, laid out once for them           copied once
    int8        torch's kernel for 8 bits                float32, a block at a time       cut to 8 bits

All but `int8` do the same arithmetic: factors of 16 bits, sums in float32, one rounding at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32
from jaxtyping import Int8 as Int8Tensor
from torch import Tensor
from torch.nn import functional as F

Product = Callable[[Tensor], Tensor]
Make = Callable[[Tensor, Tensor | None], Product]
Kernels = Literal["onednn", "fbgemm"]

# Up to how many rows torch's own `linear` is not slower than widening the weight first.
_FEW_ROWS = 8
# Weights that are widened at a time: 8 MB, which the last cache holds while they are multiplied.
_BLOCK = 1 << 21
# Weights that are laid out at a time: 256 MB in float32.
_PIECE = 1 << 26
# A power of two that lifts the largest weight of a row to just below float16's largest number.
_TOP_EXPONENT, _MOST_LIFT = 16, 126
# Rows that the kernel for 8 bits takes at a time, and up to how many it is faster than widening.
_INT8_STEP, _INT8_ROWS = 32, 16


def kernels(dtype: torch.dtype, device: torch.device) -> Kernels | None:
    """Whose kernels for weights that are laid out once serve a dtype here; None if nobody's."""
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if dtype == torch.bfloat16 and is_native(dtype):
        return "onednn"
    return "fbgemm" if torch.backends.quantized.engine in ("x86", "fbgemm") else None


def is_native(dtype: torch.dtype) -> bool:
    """Whether this CPU computes in a type: torch's own products in 16 bits are fast only then."""
    if dtype.itemsize > 2 or not torch._C._has_mkldnn:
        return dtype.itemsize > 2
    asked = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    return bool(getattr(torch.ops.mkldnn, asked)())


@dataclass(frozen=True, eq=False)
class Stored:
    """The product with a weight that stays as it is; what is differentiated goes through torch's `linear`."""

    weight: Float[Tensor, "n d"]
    bias: Float[Tensor, " n"] | None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= _FEW_ROWS or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        found = _in_blocks(rows.float(), self.weight)
        found = found if self.bias is None else found + self.bias.float()
        return found.to(x.dtype).reshape(*x.shape[:-1], len(self.weight))


def _in_blocks(rows: Float32[Tensor, "m d"], weight: Tensor) -> Float32[Tensor, "m n"]:
    """The product in float32, with so many rows of the weight at a time that they stay in the cache."""
    step = max(1, _BLOCK // weight.shape[1])
    scratch = torch.empty(min(step, len(weight)), weight.shape[1])
    found = torch.empty(len(weight), len(rows))
    for start in range(0, len(weight), step):
        piece = weight[start : start + step]
        torch.mm(scratch[: len(piece)].copy_(piece), rows.t(), out=found[start : start + step])
    return found.t()


@dataclass(frozen=True, eq=False)
class OneDnn:
    """The product with a weight that is laid out as oneDNN wants it."""

    laid_out: Tensor
    bias: Float[Tensor, " n"] | None

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.laid_out, self.bias, "none", [], "")
        return found

    def __reduce__(self) -> Any:
        return onednn, (self.laid_out.to_dense(), self.bias)


def onednn(weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None) -> OneDnn:
    """Lays a weight out for oneDNN."""
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
    return OneDnn(laid_out, None if bias is None else bias.detach())


@dataclass(frozen=True, eq=False)
class Fbgemm:
    """The product with pieces of a weight that are laid out as FBGEMM wants them; `back` undoes the scale of
    each row."""

    pieces: Sequence[torch.ScriptObject]
    back: Float32[Tensor, " n"]
    bias: Float32[Tensor, " n"] | None

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        found = [torch.ops.quantized.linear_dynamic_fp16(wide, piece) for piece in self.pieces]
        whole = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        whole = whole.mul_(self.back) if self.bias is None else torch.addcmul(self.bias, whole, self.back)
        return whole.to(x.dtype)

    def __reduce__(self) -> Any:
        return _again, (
            [torch.ops.quantized.linear_unpack_fp16(one)[0] for one in self.pieces],
            self.back,
            self.bias,
        )


def _again(weights: Sequence[Tensor], back: Tensor, bias: Tensor | None) -> Fbgemm:
    """A copy or pickle in its own process."""
    return Fbgemm([_laid_out(weight) for weight in weights], back, bias)


def fbgemm(weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None) -> Fbgemm | Stored:
    """Lays a weight out for FBGEMM: in float16, whatever it was.

    Float16 holds every bfloat16 whose size is in a range of 2^32, and each row is scaled by a power of two
    to fit: weights come through exactly. One that is smaller than its row's largest by more than 2^32 is
    rounded at 2^-41 of that, which a sum in float32 does not notice. Weights that are not finite have no
    such scale: their product is torch's.
    """
    top = torch.linalg.vector_norm(weight.detach(), float("inf"), dim=1, dtype=torch.float32)
    if not bool(top.isfinite().all()):
        return Stored(weight, bias)
    lift = (_TOP_EXPONENT - torch.frexp(top).exponent).clamp(max=_MOST_LIFT)
    scale = torch.ldexp(torch.ones_like(top), lift)
    step = max(1, _PIECE // weight.shape[1])
    pieces = [
        _laid_out(weight[i : i + step].detach().float() * scale[i : i + step, None])
        for i in range(0, len(weight), step)
    ]
    return Fbgemm(pieces, scale.reciprocal(), None if bias is None else bias.detach().float())


def _laid_out(weight: Float32[Tensor, "n d"]) -> torch.ScriptObject:
    """Some rows of a weight as FBGEMM keeps them."""
    laid_out: torch.ScriptObject = torch.ops.quantized.linear_prepack_fp16(weight, None)
    return laid_out


@dataclass(frozen=True, eq=False)
class Int8:
    """The product with a weight of 8 bits and a scale for each row."""

    small: Int8Tensor[Tensor, "n d"]
    scale: Float[Tensor, " n"]
    bias: Float[Tensor, " n"] | None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        # torch@2.13's kernel reads past the end of rows of any other length
        has_kernel = self.scale.dtype == torch.bfloat16 and self.small.shape[1] % _INT8_STEP == 0
        if has_kernel and len(rows) <= _INT8_ROWS:
            found = torch.ops.aten._weight_int8pack_mm(rows, self.small, self.scale)
        else:
            found = (_in_blocks(rows.float(), self.small) * self.scale).to(x.dtype)
        found = found if self.bias is None else found + self.bias
        return found.reshape(*x.shape[:-1], len(self.scale))


def int8(weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None) -> Int8:
    """Cuts a weight to 8 bits."""
    wide = weight.detach().float()
    scale = (wide.abs().amax(dim=1).clamp(min=1e-12) / 127).to(weight.dtype)
    small = (wide / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Int8(small, scale, None if bias is None else bias.detach())
