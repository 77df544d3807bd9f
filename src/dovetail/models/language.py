"""What generating, training, serving and checking need of a model that reads tokens: one interface.

    inputs = model.prepare(tokens, images)                   token ids and decoded images -> tensors
    logits = model(**inputs)                                 [batch, tokens, vocab]

A family says how a batch becomes a stream of embeddings (`embed`), and where it differs, how positions
turn (`rotation`) and what a layer may look at (`rules`); everything else is written here, once. Whoever
goes on from a batch, token by token, uses `dovetail.run.engine`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.models.cache import Cache
from dovetail.models.decoder import Decoder
from dovetail.models.masks import Rule, advance, pasts_of
from dovetail.models.rotary import Rotation
from dovetail.models.stream import Stream
from dovetail.models.taps import watching

Inputs = dict[str, Any]
Side = Literal["left", "right"]


class Head(nn.Module):
    """The head as a module, for whoever looks on; its matrix may be the token table."""

    def __init__(self, weight: Float[Tensor, "v d"]) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        return F.linear(hidden, self.weight)


class LanguageModel(nn.Module, ABC):
    """A model that reads tokens, and perhaps images, and says what comes next."""

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """The decoder, whatever role it has in the family."""

    @property
    @abstractmethod
    def head_weight(self) -> Float[Tensor, "v d"]:
        """The matrix that makes logits: a head of its own, or the token table."""

    @abstractmethod
    def prepare(
        self, tokens: Sequence[Sequence[int]], images: Sequence[Sequence[Any]] = (), *, pad: Side = "left"
    ) -> Inputs:
        """The inputs for a batch: rows of token ids, and for each row its images (uint8, h w 3)."""

    @abstractmethod
    def embed(self, *args: Any, **inputs: Any) -> Stream:
        """The stream of embeddings that the decoder reads."""

    @property
    def rules(self) -> Sequence[Rule | None]:
        """What each layer may not look at beside what its blocks forbid, by the numbers of the layers."""
        return [None] * self.decoder.config.layers

    def rotation(self, stream: Stream) -> Rotation:
        """The rotation of every token by its position."""
        return self.decoder.rotation(stream.positions, stream.x.dtype)

    def hidden(self, stream: Stream, cache: Cache | None = None) -> Float[Tensor, "b n d"]:
        """What the layers that are here make of a stream, after the last norm if it is here.

        With a cache, the stream is one row with the next tokens of some sequences, all of them open; the
        columns count once all layers are through.
        """
        rules = self.rules
        here = [rules[int(name)] for name in self.decoder.blocks]
        pasts = pasts_of(stream.columns, here, cache)
        x = self.decoder(stream.x, self.rotation(stream), pasts, stream.added)
        if cache is not None:
            advance(stream.columns, cache)
        return x

    def logits(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        """The score of every token of the vocabulary."""
        if (watch := watching()) is not None:
            logits: Tensor = watch("head", Head(self.head_weight), hidden)
            return logits
        return F.linear(hidden, self.head_weight)

    def forward(self, **inputs: Any) -> Float[Tensor, "b n v"]:
        return self.logits(self.hidden(self.embed(**inputs)))


def pad_rows(
    rows: Sequence[Sequence[int]], *, side: Side, device: torch.device
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Rows of token ids as one tensor, padded with 0, and where the rows are.

    Raises:
        UsageError: there is no row, or an empty one.
    """
    if not rows or not all(len(row) for row in rows):
        raise UsageError("a batch has at least one row, and a row at least one token")
    width = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    valid = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        tokens[i, start : start + len(row)] = torch.as_tensor(row)
        valid[i, start : start + len(row)] = True
    return tokens.to(device), valid.to(device)
