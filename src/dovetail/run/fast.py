"""A model made ready to generate on a CPU: weights packed once for oneDNN, products joined.

A matrix times one vector is bound by memory, and torch's bf16 `linear` reads memory at a third of what it
gives: it packs the weight anew in every call. Packed once (`_reorder_linear_weight`), the same kernels
with the same accumulation in float32 read at nearly full speed (bench/bench_decode.py). q, k and v become
one product, gate and up another. Where torch has no oneDNN for the dtype, the model stays as it is.

`int8` keeps 8 bits of every weight and a scale for each row: half the memory to read, and other numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.models.decoder import Attention, Mlp
from dovetail.models.language import LanguageModel

# Rows that the kernel for 8 bits takes at a time, and up to how many it is faster than widening the weight.
_INT8_STEP, _FEW_ROWS = 32, 16

Product = Callable[[Tensor], Tensor]
Precision = Literal["exact", "int8"]


def is_packable(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN has fast kernels for a dtype here."""
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    return dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def made_fast(model: nn.Module, precision: Precision = "exact") -> nn.Module:
    """The same model with faster products; weights that were packed are no longer parameters."""
    weight = next(model.parameters())
    if precision == "exact" and not is_packable(weight.dtype, weight.device):
        return model
    make = packed if precision == "exact" else quantised
    for module in model.modules():
        if isinstance(module, Attention):
            _join(module, ("q", "k", "v"), "project", make)
        elif isinstance(module, Mlp):
            _join(module, ("gate", "up"), "widen", make)
    if isinstance(model, LanguageModel):
        head = make(model.head_weight, None)
        model.logits = head  # type: ignore[method-assign, assignment]
        _forget_untied_head(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                product = make(child.weight, child.bias)
                delattr(parent, name)
                object.__setattr__(parent, name, product)
    return model


def _join(
    module: Any, names: Sequence[str], method: str, make: Callable[[Tensor, Tensor | None], Product]
) -> None:
    """Makes one product of several of the same input."""
    parts = [getattr(module, name) for name in names]
    widths = [part.weight.shape[0] for part in parts]
    weight = torch.cat([part.weight for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    product = make(weight, bias)
    for name in names:
        delattr(module, name)
    object.__setattr__(module, method, lambda x: torch.split(product(x), widths, dim=-1))


def _forget_untied_head(model: LanguageModel) -> None:
    """A head of its own is packed already; the token table stays, because tokens are looked up in it."""
    if isinstance(getattr(model, "head", None), nn.Linear):
        model.head = None  # type: ignore[assignment]


def packed(weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None) -> Product:
    """The product with a weight that is laid out once as oneDNN wants it."""
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
    kept = None if bias is None else bias.detach()

    def product(x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, kept, "none", [], "")
        return found

    return product


def quantised(weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None) -> Product:
    """The product with a weight of 8 bits and a scale for each row."""
    wide = weight.detach().float()
    scale = (wide.abs().amax(dim=1).clamp(min=1e-12) / 127).to(weight.dtype)
    small = (wide / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    kept = None if bias is None else bias.detach()
    # torch@2.13's kernel reads past the end of rows of any other length
    has_kernel = weight.dtype == torch.bfloat16 and weight.shape[1] % _INT8_STEP == 0

    def product(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if has_kernel and len(rows) <= _FEW_ROWS:
            found = torch.ops.aten._weight_int8pack_mm(rows, small, scale)
        else:
            found = F.linear(rows, small.to(rows.dtype)) * scale
        found = found if kept is None else found + kept
        return found.reshape(*x.shape[:-1], len(scale))

    return product
