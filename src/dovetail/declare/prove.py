"""What must hold of every declared family, shown rather than believed. Run over all families in the tests.

A package that brings a family of its own calls `prove` in its tests.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from dovetail.declare.family import Family, Layout, Mount
from dovetail.declare.ops import StackOver
from dovetail.declare.part import Part, Row
from dovetail.declare.reference import is_reference
from dovetail.declare.spelling import is_writable, keys_of, read, written
from dovetail.dims import Expression
from dovetail.errors import DeclarationError

_INDEX = re.compile(r"\{[^}]*\}")
_FIELD_KIND = re.compile(r":[a-z_]+\}")


def prove(family: Family) -> None:
    """Checks a declaration.

    Raises:
        DeclarationError: it contradicts itself; the message lists every contradiction.
    """
    problems = [*_roles(family), *_dims(family), *_running(family)]
    for layout in family.layouts:
        problems += _layout(family, layout)
    for kinds in family.parts.values():
        for part in kinds:
            problems += _kinds(part)
            problems += [problem for naming in part.namings for problem in _ops(part, naming)]
    if problems:
        raise DeclarationError(f"family `{family.id}` contradicts itself: " + "; ".join(problems))


def _roles(family: Family) -> Iterator[str]:
    for layout in family.layouts:
        if unknown := set(layout.mounts) - set(family.parts):
            yield f"layout {layout.id} mounts unknown parts {sorted(unknown)}"
    if unknown := set(family.optional) - set(family.parts):
        yield f"unknown optional parts {sorted(unknown)}"
    for role, leaf in family.ties.items():
        owner, _, name = leaf.partition(".")
        if role not in family.parts or owner not in family.parts:
            yield f"tie of {role} to {leaf} names an unknown part"
        elif any(name not in part.leaves for part in family.parts[owner]):
            yield f"tie of {role} to {leaf} names an unknown leaf"
    ids = [layout.id for layout in family.layouts]
    if len(set(ids)) != len(ids):
        yield "two layouts have one id"


def _dims(family: Family) -> Iterator[str]:
    joints = [(left, Expression(((1, (right,)),))) for left, right in family.joined.items()]
    for left, right in (*joints, *family.sums):
        for name in (left, *right.names):
            role, _, dim = name.partition(".")
            if role not in family.parts or not any(dim in part.dims for part in family.parts[role]):
                yield f"joint {left} = {right} names the unknown size {name}"
    for role, kinds in family.parts.items():
        for part in kinds:
            known = set(part.dims)
            named = {*part.facts.spellings, *part.facts.open_dims, *part.facts.open_dims.values()}
            if unknown := named - known:
                yield f"{role} ({part.id}) speaks of unknown sizes {sorted(unknown)}"
            yield from (f"{role} ({part.id}) {problem}" for problem in _spellings(part))
    for size, numbers in family.sizes.items():
        for name in numbers:
            role, _, dim = name.partition(".")
            if role not in family.parts or (dim and not any(dim in part.dims for part in family.parts[role])):
                yield f"size {size} names the unknown size {name}"


def _spellings(part: Part) -> Iterator[str]:
    """What is written into a config for a size is read as that size."""
    firsts = {dim: spellings[0] for dim, spellings in part.facts.spellings.items()}
    plain = {spelling: 7 for spelling in firsts.values() if keys_of(spelling) == (spelling,)}
    for dim, spelling in firsts.items():
        if not is_writable(spelling):
            continue
        if lost := [key for key in keys_of(spelling)[1:] if key not in plain]:
            yield f"cannot write {dim} as {spelling}: no size is spelled {lost[0]}"
            continue
        size = (7 * 11) ** 2  # a square, and a multiple of what is known
        found = read({**plain, **written(spelling, size, plain)}, spelling)
        if found != size:
            yield f"spells {dim} as {spelling}, and reads {found} where {size} was written"


def _running(family: Family) -> Iterator[str]:
    """What is said for running: names of classes, patterns of parameters, frames of a prompt."""
    modules = {part.module for kinds in family.parts.values() for part in kinds}
    named = [
        ("model", family.model),
        ("inputs", family.inputs),
        *(("module", one) for one in sorted(modules)),
    ]
    if family.side_file is not None:
        named.append(("side_file", family.side_file[1]))
    for field, text in named:
        if text and not is_reference(text):
            yield f"{field} = `{text}` is not of the form package.module:Name"
    leaves = [
        f"{role}.{_INDEX.sub('0', leaf)}"
        for role, kinds in family.parts.items()
        for part in kinds
        for leaf in part.leaves
    ]
    for pattern in family.float32:
        if not any(fnmatchcase(leaf, pattern) for leaf in leaves):
            yield f"float32 names no parameter: {pattern}"
    for frame in (family.prompt.frame, *(frame for _, frame in family.prompt.frames)):
        if "{prompt}" not in frame:
            yield f"a frame has no place for the prompt: {frame!r}"


def _layout(family: Family, layout: Layout) -> Iterator[str]:
    """No two leaves write one name, and every required leaf has exactly one."""
    written: dict[str, str] = {}
    for role, mounts in layout.mounts.items():
        if role not in family.parts:
            continue  # _roles says so
        placed = [
            (mount, part) for mount in mounts for part in family.parts[role] if mount.naming in part.namings
        ]
        if not placed:
            yield f"layout {layout.id} has no names for any kind of {role}"
        for mount, part in placed:
            homes: dict[str, str] = {}
            for row in part.rows(mount.naming):
                name = _name(row, mount)
                for leaf in () if row.is_alias else row.leaves:
                    if leaf in homes:
                        yield f"layout {layout.id}: {role}.{leaf} is written to {homes[leaf]} and {name}"
                    homes[leaf] = name
                if not row.is_alias and written.setdefault(name, role) != role:
                    yield f"layout {layout.id}: {written[name]} and {role} both write {name}"
            lost = [leaf for leaf in part.leaves if part.is_required(leaf) and leaf not in homes]
            if lost:
                yield f"layout {layout.id}: {role} ({part.id}) has no name for {lost}"
            if len(set(homes.values())) != len([row for row in part.rows(mount.naming) if not row.is_alias]):
                yield f"layout {layout.id}: two tensors of {role} ({part.id}) have one name"


def _name(row: Row, mount: Mount) -> str:
    return dict(mount.moved).get(row.leaves[0], mount.prefix + row.stored.text)


def _ops(part: Part, naming: str) -> Iterator[str]:
    """`part(join(x)) == x` on small random integers with pairwise different sizes."""
    import numpy as np

    sizes = _small_sizes(part)
    generator = np.random.default_rng(0)
    for row in part.rows(naming):
        if (wrong := _fields(part, row)) is not None:
            yield f"{part.id}/{naming}: {row.stored.text} {wrong}"
            continue
        one = [part.leaves[leaf].shape for leaf in row.leaves]
        shapes = one * (sizes[row.op.count] if isinstance(row.op, StackOver) else 1)
        leaves = [
            generator.integers(0, 1 << 30, size=tuple(axis.evaluate(sizes) for axis in shape))
            for shape in shapes
        ]
        try:
            stored = row.op.join(leaves, sizes)
        except ValueError:  # numpy's: the shapes do not fit the op
            shapes_said = ", ".join(str(leaf.shape) for leaf in leaves)
            yield f"{part.id}/{naming}: {row.op.word} cannot make {row.stored.text} of {shapes_said}"
            continue
        expected = tuple(axis.evaluate(sizes) for axis in row.op.stored_shape(one))
        if stored.shape != expected:
            yield f"{part.id}/{naming}: {row.stored.text} has shape {stored.shape}, declared {expected}"
        parts = row.op.part(stored, shapes, sizes)
        if not all(np.array_equal(a, b) for a, b in zip(leaves, parts, strict=True)):
            yield f"{part.id}/{naming}: {row.op.word} of {row.stored.text} does not come back"
        runs = row.op.runs([leaf.shape for leaf in leaves], sizes)
        flat = stored.reshape(-1)
        for leaf, pieces in zip(leaves, runs or (), strict=False):
            gathered = [flat[run.start : run.start + run.length] for run in pieces]
            if not np.array_equal(np.concatenate(gathered), leaf.reshape(-1)):
                yield f"{part.id}/{naming}: the runs of {row.op.word} in {row.stored.text} are wrong"


def _kinds(part: Part) -> Iterator[str]:
    """Kinds of layers are subsets of the part; tensors of one name are of different kinds of one rule."""
    known = set(part.subsets)
    for rule in part.facts.layer_kinds:
        if unknown := [name for name in part.kinds_of(rule) if name not in known]:
            yield f"{part.id} has no leaves of {', '.join(unknown)}"
    rules = [set(rule.words) for rule in part.facts.layer_kinds]
    for naming in part.namings:
        names: dict[str, list[str]] = {}
        for row in part.rows(naming):
            if not row.is_alias and any(row.stored.subsets):
                name = _FIELD_KIND.sub("}", row.stored.text)
                names.setdefault(name, []).append("".join(row.stored.subsets))
        for name, kinds in names.items():
            is_divided = any(len({*kinds}) == len(kinds) and {*kinds} <= rule for rule in rules)
            if len(kinds) > 1 and not is_divided:
                yield f"{part.id}/{naming}: no kinds of layers divide the leaves stored as {name}"


def _fields(part: Part, row: Row) -> str | None:
    """What is wrong with the indices of a stored name, beside those of its leaves."""
    stacked = set()
    if isinstance(row.op, StackOver):
        stacked, count = {row.op.over}, part.count_name(row.op.over)
        if row.op.count != count:
            return f"is stacked over {row.op.over}, which {count} counts, not {row.op.count}"
    for leaf in row.leaves:
        fields = set(part.leaves[leaf].template.fields)
        if fields != {*row.stored.fields, *stacked}:
            return f"has the indices {sorted(row.stored.fields)}, its leaf {leaf} {sorted(fields)}"
    return None


def _small_sizes(part: Part) -> dict[str, int]:
    """A different small prime for every dim; query heads a multiple of kv heads, as grouping needs."""
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
    sizes = dict(zip(part.dims, primes, strict=False))
    if "q_heads" in sizes and "kv_heads" in sizes:
        sizes["q_heads"] = 3 * sizes["kv_heads"]
    return sizes
