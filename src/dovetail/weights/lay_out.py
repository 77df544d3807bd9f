"""Materials put under the names of a layout: which stored tensors there will be, and of what.

The stored tensor of a row is a sequence of segments, each some elements of one leaf: one segment for a
plain tensor, three for `qkv = q | k | v`, three per group where they interleave. So every exact change
of layout is a copy of bytes in another order.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from math import prod
from typing import Any, NamedTuple

from dovetail.columns import records
from dovetail.declare.family import Family, Layout, Mount
from dovetail.declare.ops import Run
from dovetail.declare.part import Part, Row
from dovetail.dtypes import BITS
from dovetail.errors import UsageError, listed
from dovetail.explain.leaves import Sizes
from dovetail.names import Template
from dovetail.store.write.tensor_data import Chunk
from dovetail.weights.material import Material

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

    material: Material
    start: int
    length: int


class Arranged(NamedTuple):
    """One stored tensor to write, `size` bytes.

    `pieces` are the segments of a tensor that joins several, () where it is one leaf as it is, and None
    where its elements must be rearranged one by one.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    row: Row
    materials: tuple[Material, ...]
    pieces: tuple[Segment, ...] | None
    size: int
    aliases: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...] | None:
        """Its elements in order, None where they must be rearranged one by one."""
        if self.pieces == ():
            (material,) = self.materials
            return (Segment(material, 0, material.elements),)
        return self.pieces

    @property
    def needs_memory(self) -> int:
        """Bytes that must be held at once to write it."""
        if self.pieces == ():
            return self.materials[0].working
        working = max([material.working for material in self.materials])
        if self.pieces is None:
            return 3 * self.size + working
        if len(self.pieces) == len(self.materials):
            return working
        return working + sum([one.size for one in self.materials if one.make is not None])

    def chunks(self) -> Iterator[tuple[str, Chunk]]:
        """The bytes in order, each chunk with the leaf that it belongs to ("" if it holds several)."""
        segments = self.segments
        if segments is None:
            yield "", self._rearranged()
            return
        whole = self._held(segments)
        for segment in segments:
            width = BITS[segment.material.dtype]
            if (data := whole.get(segment.material.name)) is not None:
                begin, end = segment.start * width // 8, (segment.start + segment.length) * width // 8
                yield segment.material.name, memoryview(data)[begin:end]
                continue
            for chunk in segment.material.chunks(segment.start, segment.length):
                yield segment.material.name, chunk

    def _held(self, segments: tuple[Segment, ...]) -> dict[str, bytearray]:
        """Computed leaves that are needed in several pieces."""
        if len(segments) == len(self.materials):
            return {}
        return {material.name: material.whole() for material in self.materials if material.make is not None}

    def _rearranged(self) -> bytes:
        import numpy as np

        arrays: list[Any] = [
            np.frombuffer(material.whole(), dtype=f"V{BITS[self.dtype] // 8}").reshape(material.shape)
            for material in self.materials
        ]
        return bytes(np.ascontiguousarray(self.row.op.join(arrays, {})))


def arrange(materials: Iterable[Material], target: Target) -> list[Arranged]:
    """The stored tensors of a layout for these materials, in the order of the materials.

    Raises:
        UsageError: the layout has no place for a part, or something it needs is not known.
    """
    by_leaf: dict[Key, list[Material]] = {}
    order: dict[str, int] = {}
    for position, material in enumerate(materials):
        key = material.role, material.leaf.name
        if key in by_leaf:
            by_leaf[key].append(material)
        else:
            by_leaf[key] = [material]
        order[material.name] = position
    _check_roles({role for role, _ in by_leaf}, target)
    arranged: list[Arranged] = []
    for role, part in target.parts.items():
        if any(name == role for name, _ in by_leaf):
            mount = target.layout.mount(role, part, target.parts)
            arranged += _role(role, part, mount, by_leaf=by_leaf, target=target)
    if sum([len(one.materials) for one in arranged]) != len(order):
        _refuse_lost(order, arranged, target.layout)
    places = [order[one.materials[0].name] for one in arranged]
    return [arranged[position] for position in sorted(range(len(arranged)), key=places.__getitem__)]


def _check_roles(roles: set[str], target: Target) -> None:
    for role in target.parts:
        if role in roles and role not in target.layout.mounts:
            raise UsageError(
                f"layout {target.layout.id} of {target.family.id} has no place for the part {role}",
                hint=f"choose another layout, or leave it out with --without {role}",
            )


def _refuse_lost(names: Iterable[str], arranged: Iterable[Arranged], layout: Layout) -> None:
    placed = {material.name for one in arranged for material in one.materials}
    if lost := [f"`{name}`" for name in names if name not in placed]:
        raise UsageError(
            f"layout {layout.id} has no name for {listed(lost, 3)}", hint="choose another layout"
        )


def _role(
    role: str, part: Part, mount: Mount, *, by_leaf: Mapping[Key, list[Material]], target: Target
) -> Iterator[Arranged]:
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
        mates = [_by_index(by_leaf.get((role, leaf), [])) for leaf in row.leaves[1:]]
        for index, material in _by_index(first).items():
            found = [material, *(others[index] for others in mates if index in others)]
            if len(found) < len(row.leaves):
                raise UsageError(
                    f"`{text}` needs all of {', '.join(row.leaves)}, and some are missing",
                    hint="choose a layout that keeps them apart",
                )
            aliases = () if row.leaves[0] in moved else _aliases(mount, row, material.indices)
            one = _joined(template.at(material.indices), role, row, tuple(found), plan=plan)
            yield one._replace(aliases=aliases) if aliases else one


def _by_index(materials: Iterable[Material]) -> dict[tuple[int, ...], Material]:
    """The materials of one leaf by their indices."""
    return {tuple([one.indices[field] for field in one.leaf.template.fields]): one for one in materials}


def _renamed(role: str, row: Row, mount: Mount, text: Template, materials: list[Material]) -> list[Arranged]:
    """The stored tensors of a row that are one leaf each: most tensors of most layouts."""
    dtypes: Iterable[str] = [one.dtype for one in materials]
    shapes: Iterable[Shape] = [one.shape for one in materials]
    sizes: Iterable[int]
    if len({*dtypes}) == len({*shapes}) == 1:
        sizes = repeat(materials[0].size)
    else:
        sizes = [one.size for one in materials]
    return records(
        Arranged,
        [text.at(one.indices) for one in materials],
        repeat(role),
        dtypes,
        shapes,
        repeat(row),
        zip(materials),
        repeat(()),
        sizes,
        [_aliases(mount, row, one.indices) for one in materials] if mount.aliases else repeat(()),
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

    def of(self, name: str, materials: tuple[Material, ...]) -> tuple[Shape, list[list[Run]] | None]:
        """The stored shape and the runs of each leaf in it.

        Raises:
            UsageError: a size that they depend on is not known.
        """
        shapes = tuple([material.shape for material in materials])
        if shapes not in self._known:
            op = self._row.op
            if missing := self._sizes.unproved(op.needs):
                raise UsageError(
                    f"`{name}` can only be put together when {self._role}.{missing[0]} is known, "
                    "and nothing says it",
                    hint="put the config.json beside the weights, or give "
                    f"--set {self._role}.{missing[0]}=NUMBER",
                )
            symbols = op.stored_shape([material.leaf.shape for material in materials])
            self._known[shapes] = self._sizes.evaluate(symbols), op.runs(list(shapes), self._sizes)
        return self._known[shapes]


def _joined(name: str, role: str, row: Row, materials: tuple[Material, ...], *, plan: _RowPlan) -> Arranged:
    dtypes = {material.dtype for material in materials}
    if len(dtypes) > 1:
        raise UsageError(
            f"`{name}` joins tensors of different dtypes: {', '.join(sorted(dtypes))}",
            hint="give --dtype to make them one",
        )
    shape, runs = plan.of(name, materials)
    pieces = None if runs is None else tuple(_segments(materials, runs))
    size = prod(shape) * BITS[(dtype := dtypes.pop())] // 8
    return Arranged(name, role, dtype, shape, row, materials, pieces, size)


def _segments(materials: tuple[Material, ...], runs: list[list[Run]]) -> Iterator[Segment]:
    """The leaves' runs in the order of the stored tensor."""
    pieces = []
    for material, places in zip(materials, runs, strict=True):
        position = 0
        for run in places:
            pieces.append((run.start, Segment(material, position, run.length)))
            position += run.length
    return (segment for _, segment in sorted(pieces, key=lambda piece: piece[0]))
