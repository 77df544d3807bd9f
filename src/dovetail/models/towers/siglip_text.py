"""SigLIP's text tower, and the score of a text and an image.

    i  images    b  texts    n  tokens of a text    d  d_text    e  width that both towers share

A text is its last token, so it must be as long as the texts that the model was trained with (64 tokens);
padding is looked at like any other token. Every pair is scored by itself, with no softmax over the others.

Sources: arXiv:2303.15343; transformers@5.23.0 `modeling_siglip.py`.
"""

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.values import Values, fill
from dovetail.models.arrays import tensors
from dovetail.models.blocks import Blocks
from dovetail.models.layers import Embedding, LayerNorm, Linear
from dovetail.models.towers.tower import TowerModel
from dovetail.models.towers.vit import Block, Table, through


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The sizes and settings of the text tower. A text has at most `positions` tokens."""

    d_text: int
    layers: int
    heads: int
    d_ff: int
    vocab: int
    positions: int
    d_out: int
    norm_eps: float
    activation: str


class TextTower(nn.Module):
    """Tokens with positions, blocks in which all see all, a norm, and the last token projected."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        d, eps = config.d_text, config.norm_eps
        self.embed = Embedding(config.vocab, d)
        self.pos_embed = Table(config.positions, d)
        self.blocks = Blocks(
            {
                str(i): Block(d, heads=config.heads, d_ff=config.d_ff, act=config.activation, eps=eps)
                for i in range(config.layers)
            }
        )
        self.norm = LayerNorm(d, eps=eps)
        self.proj = Linear(d, config.d_out)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        x = self.embed(tokens) + self.pos_embed.weight[: tokens.shape[1]]
        return self.proj(through(self.blocks, self.norm, x, "normed")[:, -1])


class Contrast(nn.Module):
    """The score of every pair: the cosine of their vectors, times exp(`scale`), plus `bias`. Its sigmoid
    is how likely the two belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, images: Float[Tensor, "i e"], texts: Float[Tensor, "b e"]) -> Float[Tensor, "i b"]:
        cosine = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
        return cosine * self.scale.exp() + self.bias


class WithTexts(TowerModel, ABC):
    """What has a text tower beside its vision tower, if the checkpoint does."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.text = TextTower(fill(TextConfig, values, "text")) if values.has("text") else None
        self.contrast = Contrast() if values.has("contrast") else None

    def texts(self, rows: Iterable[Any]) -> Float[Tensor, "b e"]:
        """One vector for each text, from its tokens.

        Raises:
            UsageError: there is no text tower or no text, texts have different lengths, or one is too long.
        """
        arrays = self.inputs.texts(rows)
        assert self.text is not None
        return self.text(**tensors(arrays, self.device))

    def scores(self, images: Float[Tensor, "i e"], texts: Float[Tensor, "b e"]) -> Float[Tensor, "i b"]:
        """The score of every pair of an image (`pooled`) and a text (`texts`).

        Raises:
            UsageError: the checkpoint has no scale and bias.
        """
        if self.contrast is None:
            raise UsageError(
                "this checkpoint has no scale and bias to compare images and texts with",
                hint="take the features of each instead",
            )
        return self.contrast(images, texts)
