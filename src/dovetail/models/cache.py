"""A batch of sequences on their way through a decoder, and the keys and values of what went before."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Columns(NamedTuple):
    """What masks are made of: for each token, whether it is one (padding is not), the block it stands in
    (`masks.py`) and its modality (0 text, 1 image)."""

    valid: Bool[Tensor, "b n"]
    block: Int[Tensor, "b n"]
    modality: Int[Tensor, "b n"]


class Stream(NamedTuple):
    """A batch of sequences, one column a token: the embeddings and what else is known of each.

    `positions` may have several rows for each token (time, height, width).
    """

    x: Float[Tensor, "b n d"]
    positions: Int[Tensor, "*axes b n"]
    columns: Columns

    def part(self, start: int, end: int) -> "Stream":
        """The columns from `start` to `end`."""
        columns = Columns(*(one[:, start:end] for one in self.columns))
        return Stream(self.x[:, start:end], self.positions[..., start:end], columns)

    @property
    def last(self) -> Int[Tensor, " b"]:
        """The last column of each row that is no padding."""
        valid = self.columns.valid
        return (valid * torch.arange(valid.shape[1], device=valid.device)).argmax(dim=1)


@runtime_checkable
class History(Protocol):
    """What a layer remembers of the columns before."""

    def append(
        self, k: Float[Tensor, "b g n c"], v: Float[Tensor, "b g n c"]
    ) -> tuple[Float[Tensor, "b g s c"], Float[Tensor, "b g s c"]]:
        """Everything so far, the new columns last."""


class Past:
    """The keys and values of one layer, written in place into a buffer of fixed size."""

    def __init__(self, keys: Float[Tensor, "b g s c"], values: Float[Tensor, "b g s c"]) -> None:
        self._keys = keys
        self._values = values
        self._length = 0

    @property
    def now(self) -> tuple[Float[Tensor, "b g s c"], Float[Tensor, "b g s c"]]:
        """Everything so far."""
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]

    def append(
        self, k: Float[Tensor, "b g n c"], v: Float[Tensor, "b g n c"]
    ) -> tuple[Float[Tensor, "b g s c"], Float[Tensor, "b g s c"]]:
        """Everything so far, the new columns last."""
        start, self._length = self._length, self._length + k.shape[2]
        self._keys[:, :, start : self._length] = k
        self._values[:, :, start : self._length] = v
        return self.now


class Cache:
    """The past of every layer, and the columns it is the past of. `capacity` is never exceeded."""

    def __init__(self, like: Stream, *, layers: int, kv_heads: int, head_dim: int, capacity: int) -> None:
        shape = (2, layers, like.x.shape[0], kv_heads, capacity, head_dim)
        keys, values = torch.empty(shape, dtype=like.x.dtype, device=like.x.device)
        self.layers = [Past(k, v) for k, v in zip(keys, values, strict=True)]
        self.columns: Columns | None = None

    def extend(self, columns: Columns) -> Columns:
        """Takes note of new columns; gives all so far."""
        if self.columns is None:
            self.columns = columns
        else:
            pairs = zip(self.columns, columns, strict=True)
            self.columns = Columns(*(torch.cat([old, new], dim=1) for old, new in pairs))
        return self.columns
