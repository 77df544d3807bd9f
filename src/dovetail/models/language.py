"""What generating, training, serving and checking need of a model that reads tokens: one interface.

    inputs = model.prepare(tokens, images)                   token ids and decoded images -> tensors
    logits = model(**inputs)                                 [batch, tokens, vocab]
    ids = model.generate(inputs, max_new_tokens=32)          [batch, at most 32]

A family says how a batch becomes a stream of embeddings (`embed`) and how the stream goes through its
decoder (`hidden`); everything else is written here, once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.models.cache import Cache, Columns, Stream
from dovetail.models.decoder import Decoder
from dovetail.models.taps import watching

Choose = Callable[[Tensor], Tensor]
Inputs = dict[str, Any]
Side = Literal["left", "right"]


def greedy(logits: Float[Tensor, "b v"]) -> Int[Tensor, " b"]:
    """The most likely token of each row."""
    return logits.argmax(dim=-1)


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

    @abstractmethod
    def hidden(self, stream: Stream, cache: Cache | None = None) -> Float[Tensor, "b n d"]:
        """The last hidden states of a stream that follows what is in the cache."""

    def logits(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        """The score of every token of the vocabulary."""
        if (watch := watching()) is not None:
            logits: Tensor = watch("head", Head(self.head_weight), hidden)
            return logits
        return F.linear(hidden, self.head_weight)

    def forward(self, **inputs: Any) -> Float[Tensor, "b n v"]:
        return self.logits(self.hidden(self.embed(**inputs)))

    @torch.inference_mode()
    def generate(
        self,
        inputs: Inputs,
        *,
        max_new_tokens: int,
        stop: Collection[int] = (),
        choose: Choose = greedy,
        chunk: int | None = None,
    ) -> Int[Tensor, "b t"]:
        """The tokens that follow each row; a row that has come to one of `stop` repeats it.

        Ends early when every row has stopped. `chunk` prefills about so many tokens at a time.
        """
        stream = self.embed(**inputs)
        cache = self.decoder.cache(stream, stream.x.shape[1] + max_new_tokens)
        states = [self.hidden(piece, cache) for piece in pieces(stream, chunk)]
        state = torch.cat(states, dim=1)[torch.arange(len(stream.last)), stream.last]
        found: list[Tensor] = []
        stopped = torch.zeros_like(stream.last, dtype=torch.bool)
        while len(found) < max_new_tokens and not bool(stopped.all()):
            if found:
                stream = following(stream, self.decoder.embed(found[-1][:, None]))
                state = self.hidden(stream, cache)[:, 0]
            token = choose(self.logits(state[:, None])[:, 0])
            found.append(torch.where(stopped, found[-1], token) if found else token)
            stopped |= torch.isin(found[-1], torch.tensor(sorted(stop), device=token.device))
        return torch.stack(found, dim=1)


def pieces(stream: Stream, chunk: int | None) -> Iterator[Stream]:
    """The stream in pieces of `chunk` columns or a few more: tokens that see each other stay together."""
    length, start = stream.x.shape[1], 0
    block = stream.columns.block
    while chunk is not None and start + chunk < length:
        end = start + chunk
        while end < length and not bool((block[:, end] > block[:, end - 1]).all()):
            end += 1
        yield stream.part(start, end)
        start = end
    if start < length:
        yield stream.part(start, length)


def following(stream: Stream, x: Float[Tensor, "b 1 d"]) -> Stream:
    """The stream of one more text token in each row, one position after all that is there."""
    valid, block = stream.columns.valid, stream.columns.block
    position = stream.positions.masked_fill(~valid, -1).amax(dim=-1, keepdim=True) + 1
    if position.ndim == 3:
        position = position.amax(dim=0, keepdim=True).expand(position.shape)
    after = block.amax(dim=-1, keepdim=True) + 1
    columns = Columns(torch.ones_like(after, dtype=torch.bool), after, torch.zeros_like(after))
    return Stream(x, position, columns)


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
