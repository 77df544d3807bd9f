"""`convert`: the same weights in another layout, container, sharding or dtype."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.family import Layout
from dovetail.dtypes import dtype_of
from dovetail.edit.beside.carried import assumptions, side_files
from dovetail.edit.plan import Dropped, Lossy, Output, Plan
from dovetail.edit.vocab import padded, padded_vocab, with_vocab
from dovetail.edit.write.execute import Done, execute
from dovetail.edit.write.files import DEFAULT_SHARD, output_files
from dovetail.errors import FormatError, UsageError, listed
from dovetail.report import Value
from dovetail.store.content import hash_of
from dovetail.weights.lay_out import Target, lay_out
from dovetail.weights.leaf import Leaf

FORMATS = {"safetensors": "safetensors", "torch": "torch", "pth": "torch"}


class Changes(NamedTuple):
    """What is asked for beyond the layout.

    `format` overrides the layout's container; `dtypes` are `DTYPE` or `PATTERN=DTYPE`, the last that fits
    wins, and numbers of tensors in `allow` may become infinite; `without` are parts to leave out;
    `pad_vocab` is the multiple that token rows are filled up to.
    """

    format: str | None = None
    max_shard_size: int = DEFAULT_SHARD
    dtypes: Sequence[str] = ()
    without: Collection[str] = ()
    pad_vocab: int = 1
    allow: Collection[str] = ()


_NO_CHANGES = Changes()


def convert(
    checkpoint: Path,
    out: Path,
    *,
    to: str | None = None,
    changes: Changes = _NO_CHANGES,
    allow: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
    as_: str | None = None,
    resume: bool = False,
    replace: bool = False,
    sync: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Done:
    """Writes a checkpoint in another layout; the folder appears whole or not at all.

    Without `to` the layout stays. `given` are values that no file says (`{"text.kv_heads": 2}`).
    Without `sync` it is left to the system when the bytes reach the disk, as `cp` leaves it.

    Raises:
        CheckpointError: the source is of no known family, damaged beyond `allow`, or changes meanwhile.
        UsageError: the layout or an option does not fit the family, or `out` exists.
        WriteError: there is no room or no permission; nothing is left behind.
    """
    with opened(checkpoint, as_=as_, allow=allow, given=given, to_be="changed") as source:
        plan = plan_convert(source, to=to, changes=changes._replace(allow=allow))
        return execute(
            plan, os.fspath(out), is_resumed=resume, replaces=replace, is_synced=sync, progress=progress
        )


def plan_convert(source: Checkpoint, *, to: str | None = None, changes: Changes = _NO_CHANGES) -> Plan:
    """What `convert` would write.

    Raises:
        UsageError: the layout or an option does not fit the family.
    """
    if changes.pad_vocab < 1:
        raise UsageError(f"--pad-vocab {changes.pad_vocab} is no multiple", hint="for example --pad-vocab 64")
    layout = target_layout(source, to)
    leaves, dropped = kept_leaves(source, layout, changes.without)
    leaves = with_ties(source, layout, leaves)
    vocab = padded_vocab(source, changes.pad_vocab) if changes.pad_vocab > 1 else None
    if vocab:
        leaves = padded(leaves, vocab)
    leaves, lossy = cast_leaves(leaves, changes.dtypes, allow=changes.allow)
    files = output_files(
        lay_out(leaves, target(source, layout)),
        layout.container,
        format=format_of(changes.format),
        max_shard_size=changes.max_shard_size,
        values=torch_values(source, layout),
    )
    return plan_of(
        "convert",
        source,
        (Output(files, layout.id, side_files(source, layout, leaves, vocab)),),
        assumed=assumptions(source, layout),
        config=with_vocab(source.report.config, vocab),
        dropped=dropped,
        lossy=lossy,
    )


def plan_of(
    verb: str,
    source: Checkpoint,
    outputs: tuple[Output, ...],
    *,
    config: Mapping[str, Value],
    dropped: Sequence[Dropped] = (),
    lossy: tuple[Lossy, ...] = (),
    assumed: tuple[str, ...] = (),
) -> Plan:
    """A plan whose one source is a checkpoint: everything of it is in an output or named as dropped."""
    return Plan(
        verb=verb,
        source=source.report.path,
        family=source.family,
        source_layout=source.explanation.layout,
        parts={role: part.id for role, part in source.kinds.items()},
        outputs=outputs,
        stores=(source.store,),
        config=config,
        dropped=(*dropped, *_left_out(source)),
        lossy=lossy,
        findings=source.allowed,
        inherited=source.let_pass_before,
        assumed=assumed,
        copies=tuple(
            (source.store, *pair) for match in source.explanation.roles.values() for pair in match.duplicates
        ),
    )


def target(source: Checkpoint, layout: Layout) -> Target:
    """Where the leaves of a checkpoint go in a layout."""
    sizes = {role: source.sizes(role) for role in source.parts}
    return Target(source.family, layout, source.parts, sizes)


def target_layout(source: Checkpoint, to: str | None) -> Layout:
    """The layout to write: the source's own if none is named.

    Raises:
        UsageError: the family has no such layout, or it is only read.
    """
    family = source.family
    if to is None:
        found = source.layouts
        if not found or not found[0].is_writable:
            raise UsageError("the source's own layout cannot be written", hint=_writable(source))
        return found[0]
    id = to.removeprefix(f"{family.id}/")
    if id not in {layout.id for layout in family.layouts}:
        raise UsageError(f"{family.id} has no layout `{to}`", hint=_writable(source))
    layout = family.layout(id)
    if not layout.is_writable:
        raise UsageError(f"layout {id} is only read: {layout.note}", hint=_writable(source))
    return layout


def _writable(source: Checkpoint) -> str:
    ids = [layout.id for layout in source.family.layouts if layout.is_writable]
    return f"{source.family.id} can be written as {listed(ids, 12)}"


def format_of(word: str | None) -> str | None:
    """The kind of container that a word means.

    Raises:
        UsageError: it means none.
    """
    if word is not None and word not in FORMATS:
        raise UsageError(f"there is no format `{word}`", hint=f"formats: {', '.join(FORMATS)}")
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
            hint=f"its parts: {', '.join(source.kinds)}",
        )
    dropped = []
    gone = set(without)
    for role in without:
        names = tuple(m.name for m in source.leaves.values() if m.role == role)
        dropped.append(Dropped(names, f"the part {role}, left out as asked"))
    for role in _copied_ties(source, layout, gone):
        names = tuple(m.name for m in source.leaves.values() if m.role == role)
        dropped.append(Dropped(names, f"a copy of {source.family.ties[role]}, byte for byte"))
        gone.add(role)
    if not (kept := [m for m in source.leaves.values() if m.role not in gone]):
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


def _is_copy(source: Checkpoint, role: str, leaf: str) -> bool:
    copies = [leaf for leaf in source.leaves.values() if leaf.role == role]
    original = source.leaves.get(leaf)
    if original is None or len(copies) != 1 or copies[0].shape != original.shape:
        return False
    if not source.store.has_bytes:
        return True
    return hash_of(copies[0].plain()) == hash_of(original.plain())


def with_ties(source: Checkpoint, layout: Layout, leaves: list[Leaf]) -> list[Leaf]:
    """The same and, where the layout stores tied parts, a copy for each that the source leaves out."""
    if not layout.stores_ties:
        return leaves
    return [*leaves, *(one for one in tied_copies(source, leaves) if one.role in layout.mounts)]


def tied_copies(source: Checkpoint, leaves: list[Leaf]) -> list[Leaf]:
    """A copy of what it shares for each tied part that is not there."""
    by_name = {leaf.name: leaf for leaf in leaves}
    there = {leaf.role for leaf in leaves}
    copies = []
    for role, leaf in source.family.ties.items():
        if role not in there and leaf in by_name:
            (head,) = source.parts[role].leaves.values()
            name = f"{role}.{head.name}"
            copies.append(by_name[leaf]._replace(name=name, role=role, spec=head, indices={}, init="tied"))
    return copies


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


def torch_values(source: Checkpoint, layout: Layout) -> dict[str, Any]:
    """The plain values that a torch file of this layout holds: those of a source in the same container."""
    inside = source.store.metadata.get("torch")
    if layout.container.kind != "torch" or not isinstance(inside, dict):
        return {}
    same = any(one.container == layout.container for one in source.layouts)
    return {name: value for name, value in inside.items() if name != "state_dict"} if same else {}


def _left_out(source: Checkpoint) -> list[Dropped]:
    """What the source holds beside its leaves."""
    dropped = []
    for rule, aside in source.explanation.inventory.set_aside.items():
        dropped.append(Dropped(tuple(aside), rule))
    for match in source.explanation.roles.values():
        reasons: dict[str, list[str]] = {}
        for name, reason in match.ignored:
            reasons.setdefault(reason, []).append(name)
        dropped += [Dropped(tuple(ignored), reason) for reason, ignored in reasons.items()]
        if match.duplicates:
            second = tuple(name for name, _ in match.duplicates)
            dropped.append(Dropped(second, "a second name of a tensor that is kept; compared before writing"))
    if source.explanation.unexplained:
        dropped.append(Dropped(source.explanation.unexplained, "unexpected, let pass with --allow"))
    return dropped
