"""`convert`: the same weights in another layout, container, sharding or dtype."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.family import Layout
from dovetail.edit.conversion import (
    Conversion,
    Words,
    cast_leaves,
    format_of,
    kept_leaves,
    target,
    target_layout,
    with_ties,
    words_of,
)
from dovetail.edit.plan import Dropped, Lossy, Output, Plan
from dovetail.edit.reading import Reading, check_reading, doubled, reading
from dovetail.edit.side_files.carried import side_files, travelling
from dovetail.edit.side_files.config_files import assumptions
from dovetail.edit.write.execute import Done, Progress, Writing, execute
from dovetail.edit.write.files import DEFAULT_SHARD, output_files
from dovetail.errors import UsageError
from dovetail.explain.corrections import set_aside
from dovetail.explain.documents import SET_ASIDE
from dovetail.report import Value
from dovetail.weights.lay_out import lay_out
from dovetail.weights.vocab import padded, padded_vocab, with_vocab

_NO_CHANGES = Conversion()


def convert(
    checkpoint: Path,
    out: Path,
    *,
    to: str | None = None,
    for_: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    dtype: Words = (),
    without: Words = (),
    pad_vocab: int = 1,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Done:
    """Writes a checkpoint in another layout; the folder appears whole or not at all.

    `for_` is the program that is to open the result (`transformers==4.57`): layout, container and configs
    follow. `to` names a layout instead; without either it stays. `format` (`safetensors` or `pth`)
    overrides what the layout's tools expect. `dtype` is `DTYPE` or `PATTERN=DTYPE`, or several of them of
    which the last that fits wins;
    `without` are parts to leave out; `pad_vocab` is the multiple that token rows are filled up to. `set`
    are values that no file says (`{"text.kv_heads": 2}`), `allow` patterns of damaged tensors that may
    pass. `resume` goes on with what a killed run left, `overwrite` replaces what is there; without `sync`
    it is left to the system when the bytes reach the disk, as `cp` leaves it. `progress` is told the bytes
    written and the bytes in all.

    Raises:
        CheckpointError: the source is of no known family, damaged beyond `allow`, or changes meanwhile.
        UsageError: the layout or an option does not fit the family, or `out` exists.
        WriteError: there is no room or no permission; what was written is kept for `resume`.
    """
    asked = Conversion(
        to, format, max_shard_size, words_of(dtype), words_of(without), pad_vocab, words_of(allow), for_
    )
    with opened(checkpoint, as_=as_, given=set, trust=trust, allow=asked.allow, to_be="changed") as source:
        plan = conversion_plan(source, asked)
        return execute(plan, os.fspath(out), Writing(overwrite, resume, sync), progress)


def plan_convert(
    checkpoint: Path,
    *,
    to: str | None = None,
    for_: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    dtype: Words = (),
    without: Words = (),
    pad_vocab: int = 1,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
) -> Plan:
    """What `convert` would write, from headers alone.

    Raises:
        CheckpointError: the source is of no known family, or damaged beyond `allow`.
        UsageError: the layout or an option does not fit the family.
    """
    asked = Conversion(
        to, format, max_shard_size, words_of(dtype), words_of(without), pad_vocab, words_of(allow), for_
    )
    with opened(checkpoint, as_=as_, given=set, trust=trust, allow=asked.allow, to_be="changed") as source:
        return conversion_plan(source, asked)


def conversion_plan(source: Checkpoint, asked: Conversion = _NO_CHANGES) -> Plan:
    """What a conversion of an opened checkpoint writes.

    Raises:
        UsageError: the layout or an option does not fit the family.
    """
    if asked.pad_vocab < 1:
        raise UsageError(f"--pad-vocab {asked.pad_vocab} is no multiple", hint="for example --pad-vocab 64")
    layout, chosen = _target(source, asked)
    leaves, dropped = kept_leaves(source, layout, asked.without)
    leaves = with_ties(source, layout, leaves)
    vocab = padded_vocab(source.parts, source.leaves, asked.pad_vocab) if asked.pad_vocab > 1 else None
    if vocab:
        leaves = padded(leaves, vocab)
    leaves, lossy = cast_leaves(leaves, asked.dtypes, allow=asked.allow)
    files = output_files(
        doubled(lay_out(leaves, target(source, layout)), chosen),
        layout.container,
        format=format_of(asked.format),
        max_shard_size=asked.max_shard_size,
        values=_torch_values(source, layout),
    )
    return plan_of(
        "convert",
        source,
        (Output(files, layout.id, side_files(source, layout, leaves, vocab, chosen)),),
        assumed=assumptions(source, layout, travelling(source.store)),
        config=with_vocab(source.report.config, vocab),
        dropped=dropped,
        lossy=lossy,
    )


def _target(source: Checkpoint, asked: Conversion) -> tuple[Layout, Reading | None]:
    """The layout to write, and the reader that it is for if one is named."""
    if asked.reader is None:
        return target_layout(source, asked.to), None
    to = target_layout(source, asked.to) if asked.to is not None else None
    chosen = reading(source.family, asked.reader, to=to, format=format_of(asked.format))
    check_reading(source, chosen, asked.without)
    return chosen.layout, chosen


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
    """A plan whose one source is a checkpoint: everything of it is in an output or named as dropped.

    What configs say wrong is put right in those that are written; the certificate sets the rest aside.
    """
    written = {name for output in outputs for name in output.side_files}
    right = [one for one in source.corrections if one.found.document in written]
    if aside := set_aside(one for one in source.corrections if one not in right):
        outputs = tuple(one._replace(facts={**one.facts, SET_ASIDE: aside}) for one in outputs)
    return Plan(
        verb=verb,
        source=source.report.path,
        family=source.family,
        source_layout=source.explanation.layout,
        parts={role: part.id for role, part in source.kinds.items()},
        outputs=outputs,
        stores=(source.store,),
        config=config,
        dropped=(*dropped, *(Dropped(tuple(names), why) for why, names in source.left_out.items())),
        lossy=lossy,
        findings=source.allowed,
        inherited=source.let_pass_before,
        assumed=assumed,
        corrected=tuple(map(str, right)),
        copies=source.copies,
    )


def _torch_values(source: Checkpoint, layout: Layout) -> dict[str, Any]:
    """The plain values that a torch file of this layout holds: those of a source in the same container."""
    inside = source.store.metadata.get("torch")
    if layout.container.kind != "torch" or not isinstance(inside, dict):
        return {}
    same = any(one.container == layout.container for one in source.layouts)
    return {name: value for name, value in inside.items() if name != "state_dict"} if same else {}
