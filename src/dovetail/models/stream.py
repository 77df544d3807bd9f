"""What goes through a decoder: embeddings, where each token stands, and what masks are made of.

A stream is either a batch of rows of one width, with padding where a row is shorter, or one row in which
sequences stand one after the other (`columns.sequence`), without padding:

    rows        a b c .     packed     a b c d e
                . . d e     sequence   0 0 0 1 1

Both give the same hidden states. With a cache, what is given are the next tokens of each sequence.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Columns(NamedTuple):
    """What masks are made of: for each token, whether it is one (padding is not), the block it stands in
    (`masks.py`), its modality (0 text, 1 image) and, if rows hold several, which sequence it is of."""

    valid: Bool[Tensor, "b n"]
    block: Int[Tensor, "b n"]
    modality: Int[Tensor, "b n"]
    sequence: Int[Tensor, "b n"] | None = None

    def at(self, place: Any) -> "Columns":
        """The columns at an index of rows and columns."""
        valid, block, modality, sequence = self
        return Columns(
            valid[place], block[place], modality[place], None if sequence is None else sequence[place]
        )


class Stream(NamedTuple):
    """Tokens on their way through a decoder: their embeddings, or what the layers so far made of them.

    `positions` may have several rows for each token (time, height, width). `added` is what the first
    layers add to what they put out, a slice for each of them (deepstack).
    """

    x: Float[Tensor, "b n d"]
    positions: Int[Tensor, "*axes b n"]
    columns: Columns
    added: Float[Tensor, "layers b n d"] | None = None

    def part(self, start: int, end: int) -> "Stream":
        """The columns from `start` to `end`."""
        columns = self.columns.at((slice(None), slice(start, end)))
        added = None if self.added is None else self.added[:, :, start:end]
        return Stream(self.x[:, start:end], self.positions[..., start:end], columns, added)

    @property
    def last(self) -> Int[Tensor, " b"]:
        """The last column of each row that is no padding."""
        valid = self.columns.valid
        return (valid * torch.arange(valid.shape[1], device=valid.device)).argmax(dim=1)

    def rows(self) -> Iterator["Stream"]:
        """Each row by itself, without its padding."""
        for i, valid in enumerate(self.columns.valid):
            columns = self.columns.at((slice(i, i + 1), valid))
            added = None if self.added is None else self.added[:, i, valid][:, None]
            yield Stream(self.x[i, valid][None], self.positions[..., i, valid][..., None, :], columns, added)

    @property
    def end(self) -> "End":
        """Where the text that follows this one row begins."""
        last = self.positions.amax().expand(*self.positions.shape[:-1], 1)
        return End(last + 1, self.columns.block.amax(dim=1, keepdim=True) + 1)


class End(NamedTuple):
    """The position and the block of the text token that follows a sequence."""

    positions: Int[Tensor, "*axes 1 1"]
    block: Int[Tensor, "1 1"]

    def then(self, x: Float[Tensor, "1 1 d"], distance: int = 0) -> Stream:
        """The stream of a text token that comes so many tokens later."""
        block = self.block + distance
        columns = Columns(torch.ones_like(block, dtype=torch.bool), block, torch.zeros_like(block))
        return Stream(x, self.positions + distance, columns)


def packed(streams: Sequence[Stream], sequences: Sequence[int] | None = None) -> Stream:
    """Streams of one row each as one row; sequences are numbered from 0, or as given."""
    numbers = range(len(streams)) if sequences is None else sequences
    ids = [torch.full_like(one.columns.block, number) for one, number in zip(streams, numbers, strict=True)]
    columns = [
        torch.cat(list(column), dim=1) for column in zip(*(one.columns[:3] for one in streams), strict=True)
    ]
    return Stream(
        torch.cat([one.x for one in streams], dim=1),
        torch.cat([one.positions for one in streams], dim=-1),
        Columns(columns[0], columns[1], columns[2], torch.cat(ids, dim=1)),
        _added(streams),
    )


def _added(streams: Sequence[Stream]) -> Tensor | None:
    """What layers add, put together; zeros for a stream to which nothing is added."""
    known = [one.added for one in streams if one.added is not None]
    if not known:
        return None
    layers = known[0].shape[0]
    each = [one.x.new_zeros(layers, *one.x.shape) if one.added is None else one.added for one in streams]
    return torch.cat(each, dim=2)
