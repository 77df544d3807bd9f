"""A leaf with its bytes: one tensor of a part, whatever it is stored in or made of.

Most leaves are spans of stored tensors and are copied as bytes. Others are computed: fresh values from a
seed, an interpolated table, a matrix that must be turned around, a parameter of a model in memory. A leaf
is read in blocks, in its own order, and may be read in part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from threading import local
from typing import Literal, NamedTuple

from dovetail.declare.part import LeafSpec
from dovetail.dtypes import BITS
from dovetail.store.source import ByteSource, LocalSource
from dovetail.store.store import Store
from dovetail.store.write.tensor_data import Block, Chunk, Copied, Skip, held

# How a leaf got its values. Everything but `copied` is written into the certificate of the result.
Init = Literal["copied", "tied", "random", "interpolated", "resized", "padded"]
BLOCK = 1 << 20
_AHEAD = 32 << 20


class Span(NamedTuple):
    """A run of bytes inside a stored tensor; `start` counts from the tensor's own first byte."""

    tensor: str
    start: int
    length: int


class Leaf(NamedTuple):
    """One leaf: `store` and `spans` say where its bytes are, or `make` gives them, as `source_dtype`.

    `spec` is its declaration. `dtype` is what it will be written as, `source_dtype` what it is;
    `may_overflow` lets numbers that the one has no room for become infinite. `working` are the bytes that
    making it takes.
    """

    name: str
    role: str
    spec: LeafSpec
    indices: Mapping[str, int]
    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    init: Init = "copied"
    store: Store | None = None
    spans: tuple[Span, ...] = ()
    make: Callable[[], Iterable[bytes | memoryview]] | None = None
    may_overflow: bool = False
    working: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """The bytes it will take."""
        return self.elements * BITS[self.dtype] // 8

    @property
    def is_cast(self) -> bool:
        """Whether its numbers change their width."""
        return self.dtype != self.source_dtype

    def blocks(self, start: int = 0, length: int | None = None) -> Iterator[Block]:
        """The bytes of some of its elements, in order."""
        return map(held, self.chunks(start, length))

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[Chunk]:
        """The same, with where bytes of a local file lie that stay as they are."""
        count = self.elements - start if length is None else length
        width = BITS[self.source_dtype]
        first, size = start * width // 8, count * width // 8
        stored: Iterator[Chunk] = (
            _read(self, first, size) if self.make is None else _cut(self.make(), first, size)
        )
        if not self.is_cast:
            yield from stored
            return
        from dovetail.store.cast import cast

        for block in map(held, stored):
            if isinstance(block, Skip):
                yield Skip(block.size * BITS[self.dtype] // width)
            else:
                yield cast(block, self.source_dtype, self.dtype)

    def plain(self) -> Iterator[bytes | memoryview]:
        """All its bytes in order, holes as the zeros they are."""
        for block in self.blocks():
            yield from zeros(block.size) if isinstance(block, Skip) else (block,)

    def whole(self) -> bytearray:
        """All bytes at once."""
        data = bytearray()
        for block in self.blocks():
            data += bytes(block.size) if isinstance(block, Skip) else block
        return data


def zeros(size: int) -> Iterator[bytes]:
    """So many zeros, in blocks."""
    for start in range(0, size, BLOCK):
        yield bytes(min(BLOCK, size - start))


class _Scratch(local):
    """Memory that a thread reads every block into."""

    def __init__(self) -> None:
        self.block = memoryview(bytearray(BLOCK))


_scratch = _Scratch()


def _cut(blocks: Iterable[bytes | memoryview], start: int, length: int) -> Iterator[bytes | memoryview]:
    """`length` bytes from `start` of a stream."""
    position = 0
    for block in blocks:
        inside = memoryview(block)[max(0, start - position) : max(0, start + length - position)]
        position += len(block)
        if len(inside):
            yield inside
        if position >= start + length:
            return


def _read(leaf: Leaf, start: int, length: int) -> Iterator[Chunk]:
    """Bytes of a leaf that is stored somewhere, span by span."""
    assert leaf.store is not None
    position = 0
    for span in leaf.spans:
        first = max(start, position)
        last = min(start + length, position + span.length)
        if first < last:
            yield from _read_span(leaf.store, span, first - position, last - first)
        position += span.length


def _read_span(store: Store, span: Span, skip: int, length: int) -> Iterator[Chunk]:
    entry = store.entries[span.tensor]
    source = store.source(entry.file)
    begin = entry.start + span.start + skip
    if isinstance(source, LocalSource):
        yield from _read_local(source, begin, begin + length, f"tensor `{span.tensor}`")
    else:
        yield from _read_any(source, begin, begin + length, f"tensor `{span.tensor}`")


def _read_local(source: LocalSource, begin: int, end: int, what: str) -> Iterator[Skip | Copied]:
    """Blocks in a buffer that the next one overwrites; holes of a sparse file are not read."""
    for first, last, is_data in source.extents(begin, end):
        if not is_data:
            yield Skip(last - first)
            continue
        source.fetch(last, _AHEAD)  # what follows in the file is nearly always what is wanted next
        for offset in range(first, last, BLOCK):
            piece = _scratch.block[: min(BLOCK, last - offset)]
            if source.read_into(offset, piece) != len(piece):
                source.exactly(offset, len(piece), what)
            yield Copied(piece, source, offset)


def _read_any(source: ByteSource, begin: int, end: int, what: str) -> Iterator[Block]:
    for offset in range(begin, end, 16 * BLOCK):
        yield source.exactly(offset, min(16 * BLOCK, end - offset), what)
