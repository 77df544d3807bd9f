"""A tensor on its way into a file."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from dovetail.dtypes import DTYPES
from dovetail.store.source import LocalSource


class Skip(NamedTuple):
    """Bytes that need no writing: zeros that become a hole, or, with their checksum, what is in place."""

    size: int
    crc: int | None = None


class Copied(NamedTuple):
    """Bytes as they lie in a local file from `offset` on: `data` is what was read of it, to be looked at.

    A writer may let the system move them from file to file instead of writing `data`.
    """

    data: memoryview
    source: LocalSource
    offset: int


Block = bytes | memoryview | Skip
Chunk = Block | Copied


def held(chunk: Chunk) -> Block:
    """The bytes of a chunk as they are in memory, wherever they lie besides."""
    return chunk.data if isinstance(chunk, Copied) else chunk


class TensorData(NamedTuple):
    """A tensor to write: `chunks` are its bytes in row-major order, None for zeros (a hole in the file)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[Chunk] | None

    @property
    def bytes(self) -> int:
        """The bytes that its elements take."""
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8
