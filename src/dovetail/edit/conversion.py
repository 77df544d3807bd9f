"""What is asked of a conversion, and what that does to the leaves of a checkpoint.

Parts are left out, tied copies come and go with the layout, dtypes change.
"""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from dovetail.checkpoint import Checkpoint
from dovetail.declare.family import Family, Layout
from dovetail.dtypes import dtype_of
from dovetail.edit.plan import Dropped, Lossy
from dovetail.edit.write.files import DEFAULT_SHARD
from dovetail.errors import FormatError, UsageError, listed, suggestion
from dovetail.weights.hashes import have_equal_values
from dovetail.weights.lay_out import Target
from dovetail.weights.leaf import Leaf
from dovetail.weights.ties import tied_copies

FORMATS = {"safetensors": "safetensors", "torch": "torch", "pth": "torch"}
Words = str | Collection[str]


class Conversion(NamedTuple):
    """What is asked for: by default the same layout, container and dtypes.

    `reader` is the program that is to open the result, `NAME` or `NAME==VERSION`; `format` overrides the
    layout's container; `dtypes` are `DTYPE` or `PATTERN=DTYPE`, the last that fits wins, and numbers of
    tensors in `allow` may become infinite; `without` are parts to leave out; `pad_vocab` is the multiple
    that token rows are filled up to.
    """

    to: str | None = None
    format: str | None = None
    max_shard_size: int = DEFAULT_SHARD
    dtypes: Sequence[str] = ()
    without: Collection[str] = ()
    pad_vocab: int = 1
    allow: Collection[str] = ()
    reader: str | None = None


def words_of(words: Words) -> tuple[str, ...]:
    """One word or several, as several."""
    return (words,) if isinstance(words, str) else tuple(words)


def target(source: Checkpoint, layout: Layout) -> Target:
    """Where the leaves of a checkpoint go in a layout."""
    sizes = {role: source.sizes(role) for role in source.parts}
    return Target(source.family, layout, source.parts, sizes)


def target_layout(source: Checkpoint, to: str | None) -> Layout:
    """The layout to write: the source's own if none is named.

    Raises:
        UsageError: the family has no such layout, or it is only read.
    """
    if to is not None:
        return writable_layout(source.family, to)
    if not source.layouts or not source.layouts[0].is_writable:
        raise UsageError("the source's own layout cannot be written", hint=_writable(source.family))
    return source.layouts[0]


def writable_layout(family: Family, to: str) -> Layout:
    """The layout of a family with this id, if it can be written.

    Raises:
        UsageError: the family has no such layout, or it is only read.
    """
    id = to.removeprefix(f"{family.id}/")
    if id not in {layout.id for layout in family.layouts}:
        known = [layout.id for layout in family.layouts if layout.is_writable]
        hint = suggestion(id, known, _writable(family))
        raise UsageError(f"{family.id} has no layout `{to}`", hint=hint)
    layout = family.layout(id)
    if not layout.is_writable:
        raise UsageError(f"layout {id} is only read: {layout.note}", hint=_writable(family))
    return layout


def _writable(family: Family) -> str:
    ids = [layout.id for layout in family.layouts if layout.is_writable]
    return f"{family.id} can be written as {listed(ids, 12)}"


def format_of(word: str | None) -> str | None:
    """The kind of container that a word means.

    Raises:
        UsageError: it means none.
    """
    if word is not None and word not in FORMATS:
        hint = suggestion(word, FORMATS, f"formats: {', '.join(FORMATS)}")
        raise UsageError(f"there is no format `{word}`", hint=hint)
    return FORMATS[word] if word else None


def kept_leaves(
    source: Checkpoint, layout: Layout, without: Collection[str]
) -> tuple[list[Leaf], list[Dropped]]:
    """The leaves that go into the result, and those that do not, each with its rule.

    Raises:
        UsageError: `without` names no part of this checkpoint.
    """
    if unknown := [role for role in without if role not in source.kinds]:
        raise UsageError(
            f"this checkpoint has no part `{unknown[0]}`",
            hint=suggestion(unknown[0], source.kinds, f"its parts: {', '.join(source.kinds)}"),
        )
    dropped = []
    gone = set(without)
    for role in without:
        names = tuple(leaf.name for leaf in source.leaves.values() if leaf.role == role)
        dropped.append(Dropped(names, f"the part {role}, left out as asked"))
    for role in _copied_ties(source, layout, gone):
        names = tuple(leaf.name for leaf in source.leaves.values() if leaf.role == role)
        dropped.append(Dropped(names, f"a copy of {source.family.ties[role]}, byte for byte"))
        gone.add(role)
    if not (kept := [leaf for leaf in source.leaves.values() if leaf.role not in gone]):
        raise UsageError(f"nothing is left without {listed(without, 6)}", hint="leave out fewer parts")
    return kept, dropped


def _copied_ties(source: Checkpoint, layout: Layout, gone: Collection[str]) -> list[str]:
    """Tied parts that the source stores only because its layout, or a node of a split, wants a copy."""
    if layout.stores_ties:
        return []
    return [
        role
        for role, leaf in source.family.ties.items()
        if role in source.kinds
        and role not in gone
        and _is_copy_wanted(source, role)
        and _is_copy(source, role, leaf)
    ]


def _is_copy_wanted(source: Checkpoint, role: str) -> bool:
    stamp = source.documents.stamp
    tags = stamp.values.get("init") if stamp else None
    if isinstance(tags, dict) and any(
        name.startswith(f"{role}.") and tag == "tied" for name, tag in tags.items()
    ):
        return True
    return bool(source.layouts) and all(layout.stores_ties for layout in source.layouts)


def _is_copy(source: Checkpoint, role: str, name: str) -> bool:
    copies = [leaf for leaf in source.leaves.values() if leaf.role == role]
    original = source.leaves.get(name)
    if original is None or len(copies) != 1 or copies[0].shape != original.shape:
        return False
    if not source.store.has_bytes:
        return True
    return have_equal_values(copies[0], original)


def with_ties(source: Checkpoint, layout: Layout, leaves: list[Leaf]) -> list[Leaf]:
    """The same and, where the layout stores tied parts, a copy for each that the source leaves out."""
    if not layout.stores_ties:
        return leaves
    return [*leaves, *(one for one in tied_copies(source.family, leaves) if one.role in layout.mounts)]


def cast_leaves(
    leaves: list[Leaf], dtypes: Sequence[str], *, allow: Collection[str] = ()
) -> tuple[list[Leaf], tuple[Lossy, ...]]:
    """The same with other dtypes; only floating-point tensors change. `allow` are those that may overflow.

    Raises:
        UsageError: there is no such dtype, or a pattern fits no tensor.
    """
    if not dtypes:
        return leaves, ()
    from dovetail.store.cast import CASTABLE, is_lossless

    rules = [_rule(text) for text in dtypes]
    for (pattern, _), text in zip(rules, dtypes, strict=True):
        if not any(_fits(leaf, pattern) for leaf in leaves):
            raise UsageError(
                f"`--dtype {text}` fits no tensor", hint="patterns match names such as text.norm.weight"
            )
    changed, counts = [], dict[tuple[str, str], int]()
    for leaf in leaves:
        wanted = next((dtype for pattern, dtype in reversed(rules) if _fits(leaf, pattern)), None)
        if wanted is None or leaf.source_dtype not in CASTABLE or wanted == leaf.dtype:
            changed.append(leaf)
            continue
        may_overflow = any(_fits(leaf, pattern) for pattern in allow)
        changed.append(leaf._replace(dtype=wanted, may_overflow=may_overflow))
        if not is_lossless(leaf.source_dtype, wanted):
            counts[leaf.source_dtype, wanted] = counts.get((leaf.source_dtype, wanted), 0) + 1
    return changed, tuple(Lossy(f"rounded from {a} to {b}", number) for (a, b), number in counts.items())


def _rule(text: str) -> tuple[str, str]:
    from dovetail.store.cast import CASTABLE

    pattern, equals, spelling = text.rpartition("=")
    try:
        dtype = dtype_of(spelling).name
    except FormatError:
        dtype = ""
    if dtype not in CASTABLE:
        raise UsageError(
            f"there is no dtype `{spelling}` to change to", hint="bfloat16, float16, float32, float64"
        )
    return (pattern if equals else "*"), dtype


def _fits(leaf: Leaf, pattern: str) -> bool:
    return leaf.role == pattern or fnmatchcase(leaf.name, pattern)
