"""The keys and values of sequences in every layer, so that each token is computed once.

A cache holds many sequences of different lengths and ages. Each is opened with the most tokens that it
may come to, and closed when it is done; its memory is free at once. `max_tokens` bounds all of them
together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.models.attention import After, Sight, seen


class Appended(NamedTuple):
    """One layer of one sequence: keys and values before `start`, behind which those of this step go."""

    memory: "SequenceCache"
    layer: int
    start: int
    sight: Sight

    def attend(
        self, q: Float[Tensor, "1 h q c"], k: Float[Tensor, "1 g q c"], v: Float[Tensor, "1 g q c"]
    ) -> Float[Tensor, "1 h q c"]:
        """What each query finds among all keys so far; those of this step are kept."""
        keys, values = self.memory.put(self.layer, self.start, k, v)
        if self.start == 0:
            keys, values = k, v
        elif q.shape[2] > 1:
            keys, values = keys.to(q.dtype), values.to(q.dtype)
        return seen(q, keys, values, self.sight)

    def read_only(self) -> After:
        """The same, with a copy of what came before and nothing kept."""
        return After(*self.memory.before(self.layer, self.start), self.sight)


class SequenceCache:
    """The keys and values of one sequence, in buffers of fixed size; what masks need of its columns.

    `length` counts the columns of steps that went through all layers: a step that failed leaves no trace.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._blocks = torch.empty(capacity, dtype=torch.long)
        self._modality = torch.empty(capacity, dtype=torch.long)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def note(self, block: Int[Tensor, " n"], modality: Int[Tensor, " n"]) -> None:
        """Writes down the columns of the next step; they count when `advance` is called.

        Raises:
            UsageError: the sequence was opened for fewer.
        """
        end = self.length + len(block)
        if end > self.capacity:
            raise UsageError(
                f"a sequence of {self.length} tokens cannot take {len(block)} more",
                expected=f"at most {self.capacity} tokens, as it was opened",
                hint="open it with more, or ask for fewer new tokens",
            )
        self._blocks[self.length : end] = block
        self._modality[self.length : end] = modality

    def columns(self, count: int) -> tuple[Int[Tensor, "1 k"], Int[Tensor, "1 k"]]:
        """Block and modality of all columns so far and `count` that are noted."""
        end = self.length + count
        return self._blocks[None, :end], self._modality[None, :end]

    def advance(self, count: int) -> None:
        """Counts the columns of a step that has gone through all layers."""
        self.length += count

    def put(
        self, layer: int, start: int, k: Float[Tensor, "1 g n c"], v: Float[Tensor, "1 g n c"]
    ) -> tuple[Float[Tensor, "1 g s c"], Float[Tensor, "1 g s c"]]:
        """Keeps keys and values from column `start` on; gives all of the layer so far."""
        if layer not in self._layers:
            shape, dtype = (1, k.shape[1], self.capacity, k.shape[3]), _kept_as(k)
            self._layers[layer] = k.new_empty(shape, dtype=dtype), v.new_empty(shape, dtype=dtype)
        keys, values = self._layers[layer]
        end = start + k.shape[2]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return keys[:, :, :end], values[:, :, :end]

    def before(self, layer: int, start: int) -> tuple[Float[Tensor, "1 g s c"], Float[Tensor, "1 g s c"]]:
        """A copy of the keys and values of a layer before a column."""
        keys, values = self._layers[layer]
        return keys[:, :, :start].clone(), values[:, :, :start].clone()

    @property
    def bytes(self) -> int:
        """The memory that its keys and values take."""
        return sum(one.nbytes for pair in self._layers.values() for one in pair)


def _kept_as(k: Tensor) -> torch.dtype:
    """The type that keys are kept in: on a CPU the one in which a single query attends to them."""
    return torch.promote_types(k.dtype, torch.float32) if k.device.type == "cpu" else k.dtype


class Cache:
    """Sequences by number, each with its keys and values; together at most `max_tokens` tokens."""

    def __init__(self, max_tokens: int | None = None) -> None:
        self.max_tokens = max_tokens
        self._sequences: dict[int, SequenceCache] = {}

    @property
    def tokens(self) -> int:
        """For how many tokens sequences are open."""
        return sum(one.capacity for one in self._sequences.values())

    @property
    def bytes(self) -> int:
        """The memory that all keys and values take."""
        return sum(one.bytes for one in self._sequences.values())

    def open(self, sequence: int, capacity: int) -> None:
        """Makes room for a sequence of at most so many tokens.

        Raises:
            UsageError: it is open already, or there is no room for so many.
        """
        if sequence in self._sequences:
            raise UsageError(
                f"sequence {sequence} is open already",
                hint="close it first, or give the new one another name",
            )
        if self.max_tokens is not None and self.tokens + capacity > self.max_tokens:
            raise UsageError(
                f"the cache has no room for a sequence of {capacity} tokens",
                free=self.max_tokens - self.tokens,
                hint="close a sequence first, or give the cache more tokens",
            )
        self._sequences[sequence] = SequenceCache(capacity)

    def close(self, sequence: int) -> None:
        """Frees what a sequence has.

        Raises:
            UsageError: it is not open.
        """
        self[sequence]
        del self._sequences[sequence]

    def __getitem__(self, sequence: int) -> SequenceCache:
        """The keys and values of a sequence.

        Raises:
            UsageError: it is not open.
        """
        if sequence not in self._sequences:
            raise UsageError(f"sequence {sequence} is not open", hint="open it with the tokens it may have")
        return self._sequences[sequence]

    def __contains__(self, sequence: object) -> bool:
        return sequence in self._sequences

    def __iter__(self) -> Iterator[int]:
        return iter(self._sequences)

    def __len__(self) -> int:
        return len(self._sequences)
