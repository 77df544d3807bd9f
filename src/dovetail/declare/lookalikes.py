"""Layouts and families that names and shapes cannot tell apart, listed so that a tie is knowledge."""

from collections.abc import Iterable

from dovetail.declare.family import Family, Layout
from dovetail.declare.ops import Shape

Stored = dict[str, tuple[Shape, ...]]


def stored_names(family: Family, layout: Layout, *, plain: bool = False) -> frozenset[tuple[str, str]]:
    """Every name a layout may write, with its symbolic shape; `plain` leaves optional features out."""
    found = set()
    for role, mounts in layout.mounts.items():
        for mount in mounts:
            moved = dict(mount.moved)
            for part in family.parts[role]:
                if mount.naming not in part.namings:
                    continue
                for row in part.rows(mount.naming):
                    is_optional = any(part.leaves[leaf].feature in part.optional for leaf in row.leaves)
                    if not row.is_alias and not (plain and is_optional):
                        shape = row.op.stored_shape([part.leaves[leaf].shape for leaf in row.leaves])
                        name = moved.get(row.leaves[0], mount.prefix + row.stored.text)
                        found.add((name, " ".join(f"({axis})" for axis in shape)))
    return frozenset(found)


def same_layouts(family: Family) -> list[list[str]]:
    """For each layout of a family, the others that write the same names with the same shapes."""
    written = {layout.id: stored_names(family, layout) for layout in family.layouts}
    return [
        [other for other, names in written.items() if other != layout.id and names == written[layout.id]]
        for layout in family.layouts
    ]


def same_families(families: Iterable[Family]) -> list[tuple[str, str, str]]:
    """Pairs of families with a layout of the same names and shapes, as (family, family, layout), but for what
    a model may have or lack."""
    written = [
        (one.id, layout.id, stored_names(one, layout, plain=True))
        for one in families
        for layout in one.layouts
    ]
    return [
        (a, b, layout)
        for i, (a, layout, names) in enumerate(written)
        for b, other, others in written[i + 1 :]
        if a != b and layout == other and names == others
    ]
