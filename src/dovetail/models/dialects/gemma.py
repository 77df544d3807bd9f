"""Gemma's decoder: norms whose weight counts from 1, embeddings times sqrt(d_model), a tanh GELU.

Sources: transformers@5.23.0 `modeling_gemma.py`, `configuration_gemma.py`; arXiv:2403.08295.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dovetail.models.decoder import Dialect
from dovetail.models.layers import Activation, Embedding, activation, unit_rms


class OffsetRMSNorm(nn.Module):
    """`x / rms(x) * (1 + weight)`, all of it in float32 (Llama multiplies in the type of `x`)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        unit = unit_rms(x, self.eps)
        return (unit * (1 + self.weight.to(unit.dtype))).to(x.dtype)


class ScaledEmbedding(Embedding):
    """A token table whose rows are multiplied by sqrt(d_model), a number of the table's own type."""

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        rows = super().forward(tokens)
        return rows * torch.tensor(self.embedding_dim**0.5, dtype=rows.dtype, device=rows.device)


def gemma_activation(name: str) -> Activation:
    """Gemma's `gelu` means the tanh form: the first published configs were wrong, and every reader since
    takes them so (transformers@5.23.0 configuration_gemma.py; huggingface/transformers#29402)."""
    return activation("gelu_pytorch_tanh" if name == "gelu" else name)


GEMMA = Dialect(
    embed=ScaledEmbedding,
    norm=OffsetRMSNorm,
    head_norm=nn.Identity,
    qkv_bias=False,
    activation=gemma_activation,
)
