"""Materials put under the names of a layout: which stored tensors there will be, and of what.

The stored tensor of a row is a sequence of segments, each some elements of one leaf: one segment for a
plain tensor, three for `qkv = q | k | v`, three per group where they interleave. So every exact change
of layout is a copy of bytes in another order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from dovetail.dtypes import BITS
from dovetail.edit.material import Block, Material
from dovetail.errors import UsageError, listed
from dovetail.layout.family import Family, Layout, Mount
from dovetail.layout.leaves import Sizes
from dovetail.layout.ops import Run
from dovetail.layout.part import Part, Row
from dovetail.names import Template

Shape = tuple[int, ...]


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

    `segments` is None where its elements must be rearranged one by one.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    row: Row
    materials: tuple[Material, ...]
    segments: tuple[Segment, ...] | None
    size: int
    aliases: tuple[str, ...] = ()

    @property
    def needs_memory(self) -> int:
        """Bytes that must be held at once to write it."""
        if self.segments is not None and len(self.materials) == len(self.segments) == 1:
            return self.materials[0].working
        working = max([material.working for material in self.materials])
        if self.segments is None:
            return 3 * self.size + working
        if len(self.segments) == len(self.materials):
            return working
        return working + sum([one.size for one in self.materials if one.make is not None])

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """The bytes in order, each block with the leaf that it belongs to ("" if it holds several)."""
        if self.segments is None:
            yield "", self._rearranged()
            return
        whole = self._held()
        for segment in self.segments:
            width = BITS[segment.material.dtype]
            if (data := whole.get(segment.material.name)) is not None:
                begin, end = segment.start * width // 8, (segment.start + segment.length) * width // 8
                yield segment.material.name, memoryview(data)[begin:end]
                continue
            for block in segment.material.blocks(segment.start, segment.length):
                yield segment.material.name, block

    def _held(self) -> dict[str, bytearray]:
        """Computed leaves that are needed in several pieces."""
        assert self.segments is not None
        if len(self.segments) == len(self.materials):
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
    by_leaf: dict[tuple[str, str], dict[tuple[int, ...], Material]] = {}
    order: dict[str, int] = {}
    for position, material in enumerate(materials):
        place = by_leaf.setdefault((material.role, material.leaf.name), {})
        indices = material.indices
        place[tuple([indices[field] for field in material.leaf.template.fields])] = material
        order[material.name] = position
    _check_roles({role for role, _ in by_leaf}, target)
    arranged: list[Arranged] = []
    for role, part in target.parts.items():
        if any(name == role for name, _ in by_leaf):
            mount = target.layout.mount(role, part, target.parts)
            arranged += _role(role, part, mount, by_leaf=by_leaf, target=target)
    placed = {material.name for one in arranged for material in one.materials}
    if lost := [name for name in order if name not in placed]:
        raise UsageError(
            f"layout {target.layout.id} has no name for {listed([f'`{name}`' for name in lost], 3)}",
            hint="choose another layout",
        )
    return sorted(arranged, key=lambda one: order[one.materials[0].name])


def _check_roles(roles: set[str], target: Target) -> None:
    for role in target.parts:
        if role in roles and role not in target.layout.mounts:
            raise UsageError(
                f"layout {target.layout.id} of {target.family.id} has no place for the part {role}",
                hint=f"choose another layout, or leave it out with --without {role}",
            )


def _role(
    role: str,
    part: Part,
    mount: Mount,
    *,
    by_leaf: Mapping[tuple[str, str], Mapping[tuple[int, ...], Material]],
    target: Target,
) -> Iterator[Arranged]:
    moved = dict(mount.moved)
    for row in part.rows(mount.naming):
        if row.is_alias:
            continue
        text = moved.get(row.leaves[0], mount.prefix + row.stored.text)
        filled = Template(text).at
        first = by_leaf.get((role, row.leaves[0]), {})
        if row.op.word == "rename":
            of = mount if row.leaves[0] not in moved else mount._replace(aliases=())
            yield from _renamed(role, row, of, filled, first.values())
            continue
        plan = _RowPlan(role, row, target.sizes[role])
        for index, material in first.items():
            mates = [by_leaf.get((role, leaf), {}).get(index) for leaf in row.leaves]
            if any(mate is None for mate in mates):
                raise UsageError(
                    f"`{text}` needs all of {', '.join(row.leaves)}, and some are missing",
                    hint="choose a layout that keeps them apart",
                )
            found = tuple(mate for mate in mates if mate is not None)
            aliases = () if row.leaves[0] in moved else _aliases(mount, row, material.indices)
            one = _joined(filled(material.indices), role, row, found, plan=plan)
            yield one._replace(aliases=aliases) if aliases else one


def _renamed(
    role: str,
    row: Row,
    mount: Mount,
    filled: Callable[[Mapping[str, int]], str],
    materials: Iterable[Material],
) -> Iterator[Arranged]:
    """The stored tensors of a row that are one leaf each: most tensors of most layouts."""
    kind, count, size, new = None, 0, 0, tuple.__new__
    for material in materials:
        dtype, shape = material.dtype, material.shape
        if (dtype, shape) != kind:
            kind, count = (dtype, shape), prod(shape)
            size = count * BITS[dtype] // 8
        aliases = _aliases(mount, row, material.indices) if mount.aliases else ()
        name, whole = filled(material.indices), (new(Segment, (material, 0, count)),)
        yield new(Arranged, (name, role, dtype, shape, row, (material,), whole, size, aliases))


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
    segments = None if runs is None else tuple(_segments(materials, runs))
    size = prod(shape) * BITS[(dtype := dtypes.pop())] // 8
    return Arranged(name, role, dtype, shape, row, materials, segments, size)


def _segments(materials: tuple[Material, ...], runs: list[list[Run]]) -> Iterator[Segment]:
    """The leaves' runs in the order of the stored tensor."""
    pieces = []
    for material, places in zip(materials, runs, strict=True):
        position = 0
        for run in places:
            pieces.append((run.start, Segment(material, position, run.length)))
            position += run.length
    return (segment for _, segment in sorted(pieces, key=lambda piece: piece[0]))
