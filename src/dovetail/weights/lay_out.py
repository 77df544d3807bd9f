"""Leaves put under the names of a layout: which stored tensors there will be, and of what.

The stored tensor of a row is a sequence of segments, each some elements of one leaf: one segment for a
plain tensor, three for `qkv = q | k | v`, three per group where they interleave. So every exact change
of layout is a copy of bytes in another order.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from math import prod
from typing import Any, NamedTuple

from dovetail.columns import rows_of
from dovetail.declare.family import Family, Layout, Mount
from dovetail.declare.ops import Run, StackOver
from dovetail.declare.part import Part, Row
from dovetail.dtypes import BITS
from dovetail.errors import UsageError, listed
from dovetail.explain.part_sizes import Sizes
from dovetail.names import Template
from dovetail.store.write.tensor_data import Chunk
from dovetail.weights.leaf import Leaf

Shape = tuple[int, ...]
Key = tuple[str, str]  # a role and a leaf of its part


class Target(NamedTuple):
    """What a checkpoint is to become: the layout, and the kind and sizes of each part."""

    family: Family
    layout: Layout
    parts: Mapping[str, Part]
    sizes: Mapping[str, Sizes]


class Segment(NamedTuple):
    """Some elements of one leaf, in a row."""

    leaf: Leaf
    start: int
    length: int


class OutputTensor(NamedTuple):
    """One stored tensor to write, `size` bytes.

    `pieces` are the segments of a tensor that joins several, () where it is one leaf as it is, and None
    where its elements must be rearranged one by one.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    row: Row
    leaves: tuple[Leaf, ...]
    pieces: tuple[Segment, ...] | None
    size: int
    aliases: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...] | None:
        """Its elements in order, None where they must be rearranged one by one."""
        if self.pieces == ():
            (leaf,) = self.leaves
            return (Segment(leaf, 0, leaf.elements),)
        return self.pieces

    @property
    def needs_memory(self) -> int:
        """Bytes that must be held at once to write it."""
        if self.pieces == ():
            return self.leaves[0].working
        working = max([leaf.working for leaf in self.leaves])
        if self.pieces is None:
            return 3 * self.size + working
        if len(self.pieces) == len(self.leaves):
            return working
        return working + sum([one.size for one in self.leaves if one.make is not None])

    def chunks(self) -> Iterator[tuple[str, Chunk]]:
        """The bytes in order, each chunk with the leaf that it belongs to ("" if it holds several)."""
        segments = self.segments
        if segments is None:
            yield "", self._rearranged()
            return
        whole = self._held(segments)
        for segment in segments:
            width = BITS[segment.leaf.dtype]
            if (data := whole.get(segment.leaf.name)) is not None:
                begin, end = segment.start * width // 8, (segment.start + segment.length) * width // 8
                yield segment.leaf.name, memoryview(data)[begin:end]
                continue
            for chunk in segment.leaf.chunks(segment.start, segment.length):
                yield segment.leaf.name, chunk

    def _held(self, segments: tuple[Segment, ...]) -> dict[str, bytearray]:
        """Computed leaves that are needed in several pieces."""
        if len(segments) == len(self.leaves):
            return {}
        return {leaf.name: leaf.whole() for leaf in self.leaves if leaf.make is not None}

    def _rearranged(self) -> bytes:
        import numpy as np

        arrays: list[Any] = [
            np.frombuffer(leaf.whole(), dtype=f"V{BITS[self.dtype] // 8}").reshape(leaf.shape)
            for leaf in self.leaves
        ]
        return bytes(np.ascontiguousarray(self.row.op.join(arrays, {})))


def lay_out(leaves: Iterable[Leaf], target: Target) -> list[OutputTensor]:
    """The stored tensors of a layout for these leaves, in the order of the leaves.

    Raises:
        UsageError: the layout has no place for a part, or something it needs is not known.
    """
    by_leaf: dict[Key, list[Leaf]] = {}
    order: dict[str, int] = {}
    for position, leaf in enumerate(leaves):
        key = leaf.role, leaf.spec.name
        if key in by_leaf:
            by_leaf[key].append(leaf)
        else:
            by_leaf[key] = [leaf]
        order[leaf.name] = position
    _check_roles({role for role, _ in by_leaf}, target)
    tensors: list[OutputTensor] = []
    for role, part in target.parts.items():
        if any(name == role for name, _ in by_leaf):
            mount = target.layout.mount(role, part, target.parts)
            tensors += _role(role, part, mount, by_leaf=by_leaf, target=target)
    if sum([len(one.leaves) for one in tensors]) != len(order):
        _refuse_lost(order, tensors, target.layout)
    places = [order[one.leaves[0].name] for one in tensors]
    return [tensors[position] for position in sorted(range(len(tensors)), key=places.__getitem__)]


def _check_roles(roles: set[str], target: Target) -> None:
    for role in target.parts:
        if role in roles and role not in target.layout.mounts:
            raise UsageError(
                f"layout {target.layout.id} of {target.family.id} has no place for the part {role}",
                hint=f"choose another layout, or leave it out with --without {role}",
            )


def _refuse_lost(names: Iterable[str], tensors: Iterable[OutputTensor], layout: Layout) -> None:
    placed = {leaf.name for one in tensors for leaf in one.leaves}
    if lost := [f"`{name}`" for name in names if name not in placed]:
        raise UsageError(
            f"layout {layout.id} has no name for {listed(lost, 3)}", hint="choose another layout"
        )


def _role(
    role: str, part: Part, mount: Mount, *, by_leaf: Mapping[Key, list[Leaf]], target: Target
) -> Iterator[OutputTensor]:
    moved = dict(mount.moved)
    for row in part.rows(mount.naming):
        if row.is_alias:
            continue
        text = moved.get(row.leaves[0], mount.prefix + row.stored.text)
        template = Template(text)
        first = by_leaf.get((role, row.leaves[0]), [])
        if row.op.word == "rename":
            of = mount if row.leaves[0] not in moved else mount._replace(aliases=())
            yield from _renamed(role, row, of, template, first)
            continue
        plan = _RowPlan(role, row, target.sizes[role])
        together = [by_leaf.get((role, leaf), []) for leaf in row.leaves]
        for found in _stored_together(row, together, target.sizes[role]):
            if not found:
                raise UsageError(
                    f"`{text}` needs all of {', '.join(row.leaves)}, and some are missing",
                    hint="choose a layout that keeps them apart",
                )
            indices = found[0].indices
            aliases = () if row.leaves[0] in moved else _aliases(mount, row, indices)
            one = _joined(template.at(indices), role, row, found, plan=plan)
            yield one._replace(aliases=aliases) if aliases else one


def _stored_together(row: Row, together: list[list[Leaf]], sizes: Sizes) -> Iterator[tuple[Leaf, ...]]:
    """The leaves of each stored tensor of a row, as its op takes them; () where some are missing."""
    first, *mates = map(_by_index, together)
    stacks: dict[tuple[int, ...], list[Leaf]] = {}
    for index, leaf in first.items():
        found = [leaf, *(others[index] for others in mates if index in others)]
        if len(found) < len(row.leaves):
            yield ()
        elif not isinstance(row.op, StackOver):
            yield tuple(found)
        else:
            key = tuple([leaf.indices[field] for field in row.stored.fields])
            stacks.setdefault(key, []).extend(found)
    for members in stacks.values():
        assert isinstance(row.op, StackOver)
        over = row.op.over
        whole = [i for i in range(sizes[row.op.count]) for _ in row.leaves]
        members.sort(key=lambda leaf: leaf.indices[over])
        yield tuple(members) if [leaf.indices[over] for leaf in members] == whole else ()


def _by_index(leaves: Iterable[Leaf]) -> dict[tuple[int, ...], Leaf]:
    """Leaves of one declaration by their indices."""
    return {tuple([one.indices[field] for field in one.spec.template.fields]): one for one in leaves}


def _renamed(role: str, row: Row, mount: Mount, text: Template, leaves: list[Leaf]) -> list[OutputTensor]:
    """The stored tensors of a row that are one leaf each: most tensors of most layouts."""
    dtypes: Iterable[str] = [one.dtype for one in leaves]
    shapes: Iterable[Shape] = [one.shape for one in leaves]
    sizes: Iterable[int]
    sizes = repeat(leaves[0].size) if len({*dtypes}) == len({*shapes}) == 1 else [one.size for one in leaves]
    return rows_of(
        OutputTensor,
        [text.at(one.indices) for one in leaves],
        repeat(role),
        dtypes,
        shapes,
        repeat(row),
        zip(leaves),
        repeat(()),
        sizes,
        [_aliases(mount, row, one.indices) for one in leaves] if mount.aliases else repeat(()),
    )


def _aliases(mount: Mount, row: Row, indices: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(Template(prefix + row.stored.text).at(indices) for prefix in mount.aliases)


class _RowPlan:
    """Shape and runs of a row: the same for all layers, so worked out once."""

    def __init__(self, role: str, row: Row, sizes: Sizes) -> None:
        self._role = role
        self._row = row
        self._sizes = sizes
        self._known: dict[tuple[Shape, ...], tuple[Shape, list[list[Run]] | None]] = {}

    def of(self, name: str, leaves: tuple[Leaf, ...]) -> tuple[Shape, list[list[Run]] | None]:
        """The stored shape and the runs of each leaf in it.

        Raises:
            UsageError: a size that they depend on is not known.
        """
        shapes = tuple([leaf.shape for leaf in leaves])
        if shapes not in self._known:
            op = self._row.op
            if missing := self._sizes.unproved(op.needs):
                raise UsageError(
                    f"`{name}` can only be put together when {self._role}.{missing[0]} is known, "
                    "and nothing says it",
                    hint="put the config.json beside the weights, or give "
                    f"--set {self._role}.{missing[0]}=NUMBER",
                )
            symbols = op.stored_shape([leaf.spec.shape for leaf in leaves[: len(self._row.leaves)]])
            self._known[shapes] = self._sizes.evaluate(symbols), op.runs(list(shapes), self._sizes)
        return self._known[shapes]


def _joined(name: str, role: str, row: Row, leaves: tuple[Leaf, ...], *, plan: _RowPlan) -> OutputTensor:
    dtypes = {leaf.dtype for leaf in leaves}
    if len(dtypes) > 1:
        raise UsageError(
            f"`{name}` joins tensors of different dtypes: {', '.join(sorted(dtypes))}",
            hint="give --dtype to make them one",
        )
    shape, runs = plan.of(name, leaves)
    pieces = None if runs is None else tuple(_segments(leaves, runs))
    size = prod(shape) * BITS[(dtype := dtypes.pop())] // 8
    return OutputTensor(name, role, dtype, shape, row, leaves, pieces, size)


def _segments(leaves: tuple[Leaf, ...], runs: list[list[Run]]) -> Iterator[Segment]:
    """The leaves' runs in the order of the stored tensor."""
    pieces = []
    for leaf, places in zip(leaves, runs, strict=True):
        position = 0
        for run in places:
            pieces.append((run.start, Segment(leaf, position, run.length)))
            position += run.length
    return (segment for _, segment in sorted(pieces, key=lambda piece: piece[0]))
