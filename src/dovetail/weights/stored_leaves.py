"""The leaves of an examined checkpoint, each with the place of its bytes in the files.

Nearly always that is the whole of one tensor; a tensor that joins several is taken apart into spans, and
one whose elements are in another order is rearranged when it is read.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from operator import itemgetter
from typing import Any

from dovetail.columns import rows_of
from dovetail.declare.ops import StackOver
from dovetail.declare.part import LeafSpec, Part
from dovetail.dims import numeric
from dovetail.dtypes import BITS
from dovetail.explain.detect import Explanation
from dovetail.explain.leaves import canonical_name, is_stored_plainly, leaf_shapes, members, named_indices
from dovetail.explain.match import RowMatch
from dovetail.explain.part_sizes import PartSizes
from dovetail.explain.sizes import Inference
from dovetail.names import Template
from dovetail.store.store import Entry, Store
from dovetail.weights.leaf import Leaf, Span

_POSITION = itemgetter(2, 3)  # file and start, as Entry has them


def stored_leaves(explanation: Explanation, inference: Inference, store: Store) -> dict[str, Leaf]:
    """Every leaf by full name, in the order of the files; second names of the same bytes are left out.

    Raises:
        CheckpointError: a shape is not what its family declares.
        UsageError: where a leaf's bytes are depends on a size that nothing decides.
    """
    leaves: list[Leaf] = []
    positions: list[tuple[int, int]] = []
    for role, match in explanation.roles.items():
        sizes = PartSizes(role, match.part, inference.solver)
        for row in match.rows:
            entries = [*map(store.entries.__getitem__, row.tensors.values())]
            is_plain = is_stored_plainly(row, store) and len(inference.kinds[row.text]) == 1
            if is_plain and all(entry.strides is None for entry in entries):
                spec = match.part.leaves[row.row.leaves[0]]
                leaves += _whole_tensors(role, spec, row, kind=entries[0], store=store)
                positions += map(_POSITION, entries)
                continue
            for index, stored in row.tensors.items():
                joined = [*_leaves_in(role, match.part, row, index, stored=stored, sizes=sizes, store=store)]
                leaves += joined
                positions += repeat(_POSITION(store.entries[stored]), len(joined))
    order = sorted(range(len(leaves)), key=positions.__getitem__)
    return {leaves[i].name: leaves[i] for i in order}


def _whole_tensors(role: str, spec: LeafSpec, row: RowMatch, *, kind: Entry, store: Store) -> list[Leaf]:
    """The leaves of a row that are stored as they are, all of one kind: most tensors of most files."""
    template, stored = Template(f"{role}.{spec.template.text}"), row.row.stored
    found = tuple(row.tensors)
    indices = named_indices(stored.fields, found)
    is_same = template.fields == stored.fields
    names = template.each(found) if is_same else [template.at(index) for index in indices]
    spans = rows_of(Span, row.tensors.values(), repeat(0), repeat(kind.bytes))
    return rows_of(
        Leaf,
        names,
        repeat(role),
        repeat(spec),
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


def _leaves_in(
    role: str,
    part: Part,
    row: RowMatch,
    index: tuple[int, ...],
    *,
    stored: str,
    sizes: PartSizes,
    store: Store,
) -> Iterator[Leaf]:
    """The leaves in one stored tensor."""
    entry = store.entries[stored]
    specs = [part.leaves[name] for name in row.row.leaves]
    shapes = leaf_shapes(role, row, specs, entry=entry, sizes=sizes, stored=stored)
    stack = members(row.row, entry)
    runs = row.row.op.runs(shapes * len(stack), sizes)
    fields = dict(zip(row.row.stored.fields, index, strict=True))
    each = [
        ({**fields, **member}, spec, shape)
        for member in stack
        for spec, shape in zip(specs, shapes, strict=True)
    ]
    width = BITS[entry.dtype] if entry.dtype else 0
    for position, (indices, spec, shape) in enumerate(each):
        leaf = Leaf(
            name=canonical_name(role, spec, indices),
            role=role,
            spec=spec,
            indices=indices,
            shape=shape,
            dtype=entry.dtype,
            source_dtype=entry.dtype,
            store=store,
        )
        if runs is None:
            make, working = _rearranged(store, stored, row, position, shapes=shapes)
            yield leaf._replace(make=make, working=working)
            continue
        spans = tuple(Span(stored, run.start * width // 8, run.length * width // 8) for run in runs[position])
        if entry.strides is None:
            yield leaf._replace(spans=spans)
        else:
            yield leaf._replace(spans=spans, make=_gathered(store, spans), working=3 * entry.bytes)


def _rearranged(
    store: Store, stored: str, row: RowMatch, position: int, *, shapes: list[tuple[int, ...]]
) -> tuple[Callable[[], list[bytes]], int]:
    """Gives a leaf whose elements lie scattered in its stored tensor, and the bytes that this takes.

    Of a stack over an index only the member that holds the leaf is read.
    """
    entry, op, shape = store.entries[stored], row.row.op, store.entries[stored].shape
    assert shape is not None
    start, size = 0, entry.bytes
    if isinstance(op, StackOver) and entry.strides is None:
        member, position = divmod(position, len(shapes))
        size, op, shape = entry.bytes // shape[0], op.member, shape[1:]
        start = member * size
    symbols = [numeric(one) for one in shapes]

    def make() -> list[bytes]:
        import numpy as np

        if entry.strides is None:
            source = store.source(entry.file)
            data = source.exactly(entry.start + start, size, f"tensor `{stored}`")
        else:
            data = store.read(stored)
        numbers: Any = np.frombuffer(data, dtype=f"V{BITS[entry.dtype] // 8}")
        leaves = op.part(numbers.reshape(shape), symbols, {})
        return [bytes(np.ascontiguousarray(leaves[position]))]

    return make, 3 * size


def _gathered(store: Store, spans: tuple[Span, ...]) -> Callable[[], Iterator[memoryview]]:
    """Gives the bytes of a view whose elements are not in order in the file."""

    def make() -> Iterator[memoryview]:
        whole = memoryview(store.read(spans[0].tensor))
        for span in spans:
            yield whole[span.start : span.start + span.length]

    return make
