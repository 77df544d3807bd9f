"""A leaf on its way into a new checkpoint: where its values come from, whatever they are stored in.

Most leaves are spans of stored tensors and are copied as bytes. Others are computed: fresh values from a
seed, an interpolated table, a matrix that must be turned around. A material is read in pieces, in the
leaf's own order, and may be read in part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from math import prod
from operator import itemgetter
from threading import local
from typing import Any, Literal, NamedTuple

from dovetail.columns import records
from dovetail.declare.part import LeafSpec
from dovetail.dtypes import BITS
from dovetail.explain.detect import Explanation
from dovetail.explain.leaves import (
    CanonicalLeaf,
    PartSizes,
    Span,
    is_stored_plainly,
    leaves_of_row,
    named_indices,
)
from dovetail.explain.match import RowMatch
from dovetail.explain.sizes import Inference
from dovetail.names import Template
from dovetail.store.source import ByteSource, LocalSource
from dovetail.store.store import Entry, Store
from dovetail.store.write.tensor_data import Block, Chunk, Copied, Skip, held

# How a leaf got its values. Everything but `copied` is written into the certificate of the result.
Init = Literal["copied", "tied", "random", "interpolated", "resized", "padded"]
BLOCK = 1 << 20
_AHEAD = 32 << 20
_PLACE = itemgetter(2, 3)  # file and start, as Entry has them


class _Scratch(local):
    """Memory that a thread reads every block into."""

    def __init__(self) -> None:
        self.block = memoryview(bytearray(BLOCK))


_scratch = _Scratch()


class Material(NamedTuple):
    """One leaf: `store` and `spans` say where its bytes are, or `make` gives them, as `source_dtype`.

    `dtype` is what it will be written as, `source_dtype` what it is; `may_overflow` lets numbers that the
    one has no room for become infinite. `working` are the bytes that making it takes.
    """

    name: str
    role: str
    leaf: LeafSpec
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
        found: Iterator[Chunk] = (
            _read(self, first, size) if self.make is None else _cut(self.make(), first, size)
        )
        if not self.is_cast:
            yield from found
            return
        from dovetail.store.cast import cast

        for block in map(held, found):
            if isinstance(block, Skip):
                yield Skip(block.size * BITS[self.dtype] // width)
            else:
                yield cast(block, self.source_dtype, self.dtype)

    def whole(self) -> bytearray:
        """All bytes at once."""
        return joined(self.blocks())


def materials_of(one: Explanation, inference: Inference, store: Store) -> dict[str, Material]:
    """Every leaf of an examined checkpoint by full name, in the order of the files.

    Raises:
        CheckpointError: a shape is not what its family declares.
        UsageError: where a leaf's bytes are depends on a size that nothing decides.
    """
    found: list[Material] = []
    places: list[tuple[int, int]] = []
    for role, match in one.roles.items():
        known = PartSizes(role, match.part, inference.solver)
        for row in match.rows:
            entries = [*map(store.entries.__getitem__, row.found.values())]
            is_plain = is_stored_plainly(row, store) and len(inference.kinds[row.text]) == 1
            if is_plain and all(entry.strides is None for entry in entries):
                leaf = match.part.leaves[row.row.leaves[0]]
                found += _copies(role, leaf, row, kind=entries[0], store=store)
                places += map(_PLACE, entries)
                continue
            for one_leaf in leaves_of_row(role, match.part, row, known, store):
                found.append(from_leaf(store, one_leaf))
                places.append(_PLACE(store.entries[one_leaf.stored]))
    order = sorted(range(len(found)), key=places.__getitem__)
    return {found[position].name: found[position] for position in order}


def _copies(role: str, leaf: LeafSpec, row: RowMatch, *, kind: Entry, store: Store) -> list[Material]:
    """The leaves of a row that are stored as they are, all of one kind: most tensors of most files."""
    template, stored = Template(f"{role}.{leaf.template.text}"), row.row.stored
    found = tuple(row.found)
    indices = named_indices(stored.fields, found)
    is_same = template.fields == stored.fields
    names = template.each(found) if is_same else [template.at(index) for index in indices]
    spans = records(Span, row.found.values(), repeat(0), repeat(kind.bytes))
    return records(
        Material,
        names,
        repeat(role),
        repeat(leaf),
        indices,
        repeat(kind.shape),
        repeat(kind.dtype),
        repeat(kind.dtype),
        repeat("copied"),
        repeat(store),
        zip(spans),
        repeat(None),
        repeat(False),
        repeat(0),
    )


def from_leaf(store: Store, leaf: CanonicalLeaf) -> Material:
    """The material that a leaf of an opened checkpoint is."""
    entry, spans = store.entries[leaf.stored], leaf.spans
    material = Material(
        name=leaf.name,
        role=leaf.role,
        leaf=leaf.leaf,
        indices=leaf.indices,
        shape=leaf.shape,
        dtype=leaf.dtype,
        source_dtype=leaf.dtype,
        store=store,
        spans=spans or (),
    )
    if spans is None:
        return material._replace(make=lambda: [_rearranged(store, leaf)], working=3 * entry.bytes)
    if entry.strides is not None:
        return material._replace(make=lambda: _gathered(store, spans), working=3 * entry.bytes)
    return material


def _gathered(store: Store, spans: tuple[Span, ...]) -> Iterator[memoryview]:
    """The bytes of a view whose elements are not in order in the file."""
    whole = memoryview(store.read(spans[0].tensor))
    for span in spans:
        yield whole[span.start : span.start + span.length]


def plain(material: Material) -> Iterator[bytes | memoryview]:
    """The bytes of a material, holes as the zeros they are."""
    for block in material.blocks():
        yield from _zeros(block.size) if isinstance(block, Skip) else (block,)


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        yield bytes(min(BLOCK, size - start))


def joined(blocks: Iterable[Block]) -> bytearray:
    """Blocks as one run of bytes."""
    data = bytearray()
    for block in blocks:
        data += bytes(block.size) if isinstance(block, Skip) else block
    return data


def _rearranged(store: Store, leaf: CanonicalLeaf) -> bytes:
    """A leaf whose elements lie scattered in its stored tensor."""
    import numpy as np

    entry = store.entries[leaf.stored]
    numbers: Any = np.frombuffer(store.read(leaf.stored), dtype=f"V{BITS[entry.dtype] // 8}")
    op, shapes = leaf.match.row.op, [()] * len(leaf.match.row.leaves)
    assert entry.shape is not None
    return bytes(np.ascontiguousarray(op.part(numbers.reshape(entry.shape), shapes, {})[leaf.position]))


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


def _read(material: Material, start: int, length: int) -> Iterator[Chunk]:
    """Bytes of a material that is stored somewhere, span by span."""
    assert material.store is not None
    position = 0
    for span in material.spans:
        first = max(start, position)
        last = min(start + length, position + span.length)
        if first < last:
            yield from _read_span(material.store, span, first - position, last - first)
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
