"""A model as numbers: the family, the kind of each part and every size, with nothing left open.

From it follow all names, shapes and counts of any layout. `make` writes it, tests compare with it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from dovetail.declare.family import Family, Layout, Mount
from dovetail.declare.part import LeafSpec, Part, Row
from dovetail.dims import shape_of, size_of
from dovetail.errors import UsageError, listed, suggestion
from dovetail.names import Template

# a published model has 44,686 of one row (experts of every layer); their names alone take 1 KB each
MAX_TENSORS = 1_000_000
MAX_ELEMENTS = 1 << 46  # 2^48 bytes of float32: what a safetensors file may hold


class StoredTensor(NamedTuple):
    """One tensor of a layout: its name, its shape, and the leaves it is made of."""

    name: str
    shape: tuple[int, ...]
    role: str
    row: Row
    leaves: tuple[LeafSpec, ...]


class PlannedLeaf(NamedTuple):
    """One leaf that a model has."""

    role: str
    part: Part
    leaf: LeafSpec
    indices: Mapping[str, int]
    shape: tuple[int, ...]


class Blueprint(NamedTuple):
    """A family with a kind for each role and a size for each dim (`role.dim`).

    `subsets` has the members of each index that only runs over some (`text.cross_layers`: 1, 3).
    """

    family: Family
    kinds: Mapping[str, Part]
    sizes: Mapping[str, int]
    features: Mapping[str, tuple[str, ...]]
    subsets: Mapping[str, tuple[int, ...]]

    def dims(self, role: str) -> dict[str, int]:
        """The sizes of one role, without its name. A tied role has those of the joints it would meet at."""
        own = {name.split(".", 1)[1]: size for name, size in self.sizes.items() if name.split(".")[0] == role}
        if own:
            return own
        joined = self.family.joined.items()
        return {
            a.split(".", 1)[1]: self.sizes[b]
            for a, b in joined
            if a.split(".")[0] == role and b in self.sizes
        }

    def stored(self, layout: Layout, *, with_ties: bool | None = None) -> Iterator[StoredTensor]:
        """Every tensor that a layout holds. `with_ties` adds tied tensors as copies.

        Raises:
            UsageError: the layout has no place or no names for a part. One that holds a single part is
                that part cut out, and leaves the others.
        """
        lost = [role for role in self.kinds if role not in layout.mounts]
        if lost and len(layout.mounts) > 1:
            raise UsageError(
                f"layout {layout.id} of {self.family.id} has no place for {listed(lost)}",
                hint="choose another layout: `dovetail families` lists them",
            )
        add_ties = layout.stores_ties if with_ties is None else with_ties
        for role in layout.mounts:
            part = self.kinds.get(role)
            if part is None and add_ties and role in self.family.ties:
                part = self.family.parts[role][0]
            if part is not None:
                yield from self._part(role, part, layout.mount(role, part, self.kinds))

    def leaves(self) -> Iterator[PlannedLeaf]:
        """Every leaf of every part, whatever the layout; tied parts have none."""
        for role, part in self.kinds.items():
            dims = self.dims(role)
            off = set(part.optional) - set(self.features.get(role, ()))
            for leaf in part.leaves.values():
                if leaf.feature in off:
                    continue
                shape = shape_of(leaf.shape, dims)
                for index in product(*self._indices(role, part, leaf.template)):
                    indices = dict(zip(leaf.template.fields, index, strict=True))
                    yield PlannedLeaf(role, part, leaf, indices, shape)

    def _part(self, role: str, part: Part, mount: Mount) -> Iterator[StoredTensor]:
        dims = self.dims(role)
        moved = dict(mount.moved)
        off = set(part.optional) - set(self.features.get(role, ()))
        for row in part.rows(mount.naming):
            leaves = tuple(part.leaves[leaf] for leaf in row.leaves)
            if row.is_alias or any(leaf.feature in off for leaf in leaves):
                continue
            shape = shape_of(row.op.stored_shape([leaf.shape for leaf in leaves]), dims)
            text = moved.get(row.leaves[0], mount.prefix + row.stored.text)
            template, fields = Template(text), row.stored.fields
            for index in product(*self._indices(role, part, row.stored)):
                name = template.format(**dict(zip(fields, index, strict=True)))
                yield StoredTensor(name, shape, role, row, leaves)

    def _indices(self, role: str, part: Part, stored: Template) -> Iterator[Sequence[int]]:
        """What each field of a name runs over."""
        dims = self.dims(role)
        for field, subset in zip(stored.fields, stored.subsets, strict=True):
            count = part.count_name(field)
            yield self.subsets[f"{role}.{subset}_{count}"] if subset else range(dims[count])


def blueprint(family: Family, sizes: Mapping[str, int | str]) -> Blueprint:
    """Completes the given sizes by the family's joints.

    A key without a dot names a kind and its features: `"vision": "siglip+pool"`. Layers that only some
    have are listed: `"text.cross_layers": "1,3"`.

    Raises:
        UsageError: a size is missing, unknown or contradicts another.
    """
    kinds, features = _kinds(family, sizes)
    numbers: dict[str, int] = {}
    subsets: dict[str, tuple[int, ...]] = {}
    for name, value in sizes.items():
        role, dot, dim = name.partition(".")
        if role in kinds and dot and dim in kinds[role].subsets:
            subsets[name] = _members(name, value)
        elif role in kinds and dot and dim in kinds[role].dims:
            numbers[name] = _number(name, value)
        elif role not in kinds or dot:
            known = kinds[role].dims if role in kinds else kinds
            what = f"sizes of {role}" if role in kinds else "parts"
            hint = suggestion(dim if role in kinds else role, known, f"{what}: {listed(known, 20)}")
            raise UsageError(f"{family.id} has no size `{name}`", hint=hint)
    _spread(family, kinds, numbers)
    _check_counts(kinds, numbers)
    for role, part in kinds.items():
        _complete_kinds(role, part, numbers, subsets)
    needed = [
        f"{role}.{dim}"
        for role, part in kinds.items()
        for dim in (*part.dims_with(features.get(role, ())), *part.subsets)
    ]
    missing = [name for name in needed if name not in numbers and name not in subsets]
    if missing:
        raise UsageError(
            f"{family.id} needs more sizes: {listed(missing)}", hint="give them with --set NAME=NUMBER"
        )
    plan = Blueprint(family, kinds, numbers, features, subsets)
    _check_elements(plan)
    return plan


def _check_elements(plan: Blueprint) -> None:
    """Refuses a tensor that no file can hold.

    Raises:
        UsageError: it has more than `MAX_ELEMENTS` elements.
    """
    for role, part in plan.kinds.items():
        dims = plan.dims(role)
        for leaf in part.leaves_with(plan.features.get(role, ())):
            shape = shape_of(leaf.shape, dims)
            if math.prod(shape) > MAX_ELEMENTS:
                raise UsageError(
                    f"`{role}.{leaf.name}` cannot have the shape [{', '.join(map(str, shape))}]",
                    expected=f"at most {MAX_ELEMENTS:,} elements",
                    hint=f"see the sizes {listed({name: 0 for axis in leaf.shape for name in axis.names})}",
                )


def _check_counts(kinds: Mapping[str, Part], numbers: Mapping[str, int]) -> None:
    """Refuses a number of layers, experts … whose names alone would fill the memory.

    Raises:
        UsageError: there would be more tensors than any model has.
    """
    for role, part in kinds.items():
        for leaf in part.leaves.values():
            names = [f"{role}.{part.count_name(field)}" for field in leaf.template.fields]
            counts = {name: numbers.get(name, 1) for name in names}
            if math.prod(counts.values()) > MAX_TENSORS:
                largest = max(counts, key=lambda name: counts[name])
                raise UsageError(
                    f"{largest} cannot be {counts[largest]:,}",
                    expected=f"at most {MAX_TENSORS:,} tensors of `{leaf.name}`",
                    hint="give a smaller number",
                )


def _complete_kinds(
    role: str, part: Part, numbers: Mapping[str, int], subsets: dict[str, tuple[int, ...]]
) -> None:
    """Layers of a kind that is not said are those of no other kind.

    Raises:
        UsageError: a layer is of two kinds or of none.
    """
    for rule in part.facts.layer_kinds:
        names = [f"{role}.{name}" for name in part.kinds_of(rule)]
        count = numbers.get(f"{role}.{part.count_name(rule.over)}", 0)
        said = [member for name in names for member in subsets.get(name, ())]
        unsaid = [name for name in names if name not in subsets]
        if len(unsaid) == 1:
            subsets[unsaid[0]] = tuple(sorted({*range(count)} - {*said}))
            said += subsets[unsaid[0]]
        if not unsaid[1:] and sorted(said) != [*range(count)]:
            raise UsageError(
                f"every {rule.over} of {role} is of one kind",
                **{name: ",".join(map(str, subsets[name])) or "none" for name in names},
                hint=f"give each of the {count} to one of {', '.join(names)}",
            )


def _number(name: str, value: int | str) -> int:
    if not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} cannot be `{value}`", hint="a size is a whole number above 0")
    return value


def _members(name: str, value: int | str) -> tuple[int, ...]:
    members = str(value).split(",")
    if not all(member.isdecimal() for member in members):
        raise UsageError(f"{name} cannot be `{value}`", hint="give the layers as numbers: 1,3")
    return tuple(sorted({int(member) for member in members}))


def _kinds(
    family: Family, sizes: Mapping[str, int | str]
) -> tuple[dict[str, Part], dict[str, tuple[str, ...]]]:
    kinds: dict[str, Part] = {}
    features: dict[str, tuple[str, ...]] = {}
    named = {name.split(".")[0] for name in sizes}
    for role, parts in family.parts.items():
        if role in family.optional and role not in named:
            continue
        wanted = sizes.get(role)
        kind, *with_features = str(wanted).split("+") if wanted is not None else [parts[0].id]
        kinds[role] = family.kind(role, kind)
        features[role] = tuple(with_features)
        if unknown := set(with_features) - set(kinds[role].optional):
            known = ", ".join(kinds[role].optional) or "nothing"
            raise UsageError(
                f"{role} ({kind}) is never with `{min(unknown)}`", hint=f"what may be added to it: {known}"
            )
    return kinds, features


def _spread(family: Family, kinds: Mapping[str, Part], numbers: dict[str, int]) -> None:
    """Fills sizes that joints and equations give, until nothing changes."""
    joints = [
        (a, b) for a, b in family.joined.items() if a.split(".")[0] in kinds and b.split(".")[0] in kinds
    ]
    changed = True
    while changed:
        before = len(numbers)
        for a, b in joints:
            _equate(numbers, a, b)
        for left, right in family.sums:
            terms = [(k, m) for k, m in right.terms if all(name.split(".")[0] in kinds for name in m)]
            if left.split(".")[0] in kinds and all(name in numbers for _, m in terms for name in m):
                _set(numbers, left, sum(k * numbers[m[0]] for k, m in terms))
        for role, part in kinds.items():
            for left, right in part.equations():
                scoped = right.rename(lambda dim, role=role: f"{role}.{dim}")  # type: ignore[misc]
                if f"{role}.{left}" not in numbers and all(_is_known(name, numbers) for name in scoped.names):
                    numbers[f"{role}.{left}"] = scoped.evaluate(numbers)
        changed = len(numbers) != before


def _is_known(name: str, numbers: Mapping[str, int]) -> bool:
    try:
        size_of(name, numbers)
    except KeyError:
        return False
    return True


def _equate(numbers: dict[str, int], a: str, b: str) -> None:
    if a in numbers:
        _set(numbers, b, numbers[a])
    elif b in numbers:
        numbers[a] = numbers[b]


def _set(numbers: dict[str, int], name: str, size: int) -> None:
    if numbers.setdefault(name, size) != size:
        raise UsageError(
            f"{name} cannot be {numbers[name]} and {size}", hint="two sizes that meet must be equal"
        )
