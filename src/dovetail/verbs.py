"""The verbs that only read: inspect, validate, families."""

from collections.abc import Callable, Mapping
from typing import Any

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.lookalikes import same_layouts
from dovetail.errors import DovetailError
from dovetail.families import all_families
from dovetail.report import Report


def inspect(
    checkpoint: Path,
    *,
    as_: str | None = None,
    set: Mapping[str, Any] | None = None,
    size: str | None = None,
    trust: str | None = None,
    memory: bool = False,
    context: int = 4096,
    batch: int = 1,
    nodes: int = 1,
) -> Report:
    """What a checkpoint is: family, layout, sizes with their evidence, and what is wrong by its header.

    Moves headers only; takes milliseconds. `as_` (`family` or `family/layout`) asserts what it must be,
    `size` which published size of its family. `set` are values that no file says (`{"text.kv_heads": 2}`), or
    that it must have; `trust` is the side that counts where `weights`, `config` and `stamp` contradict each
    other. `memory` adds what it takes to run `batch` sequences of `context` tokens on so many `nodes`:
    weights by dtype, keys and values.

    Raises:
        UsageError: there is nothing to open, or its memory cannot be told.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
    """
    with opened(checkpoint, as_=as_, given=set, size=size, trust=trust) as found:
        if not memory:
            return found.report
        from dovetail.memory_to_run import memory_of

        return found.report.replace(memory=memory_of(found, context=context, batch=batch, nodes=nodes))


def validate(
    checkpoint: Path,
    *,
    as_: str | None = None,
    set: Mapping[str, Any] | None = None,
    size: str | None = None,
    trust: str | None = None,
    values: bool = False,
    forward: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Whether a checkpoint is whole. `as_`, `size`, `set` and `trust` are those of `inspect`.

    `values` reads all data as well: NaN and infinities, zeros, copies that differ, tensors that look
    freshly initialised, values that changed since the certificate was written. `progress` is then told
    the bytes read so far and the bytes in all. `forward` runs a whole checkpoint once on made-up input of
    its true shapes, which needs torch.

    Raises:
        UsageError: there is nothing to open, or `as_` names no family or layout.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
    """
    with opened(checkpoint, as_=as_, given=set, size=size, trust=trust) as found:
        return checked(found, values=values, forward=forward, progress=progress)


def checked(
    checkpoint: Checkpoint,
    *,
    values: bool = False,
    forward: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """The report of an opened checkpoint, with what `validate` is asked to look at beside the headers."""
    report = _with_values(checkpoint, progress) if values else checkpoint.report
    if not forward:
        return report
    from dovetail.parity.forward import with_forward

    return with_forward(report, checkpoint)


def _with_values(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None) -> Report:
    """The report with what the data shows, and whether it is what the certificate says."""
    from dovetail.compare.recheck import certified_leaves, recheck, why_not
    from dovetail.explain.values import check_values

    try:
        leaves = certified_leaves(checkpoint) if checkpoint.store.has_bytes else {}
    except DovetailError as error:
        report = check_values(checkpoint.examination, progress=progress)
        return report.replace(unchecked=(*report.unchecked, why_not(error)))
    hashed = sum(leaf.size for leaf in leaves.values())
    read = 0

    def count_read(done: int, total: int) -> None:
        nonlocal read
        read = total
        if progress:
            progress(done, total + hashed)

    report = check_values(checkpoint.examination, progress=count_read)
    return recheck(
        report, checkpoint, leaves, progress and (lambda done, _: progress(read + done, read + hashed))
    )


def families() -> list[dict[str, Any]]:
    """What is known: `{family, title, parts, layouts: [{id, writable, note, readers, same_as}], sizes}`."""
    return [
        {
            "family": one.id,
            "title": one.title,
            "parts": {role: [part.id for part in kinds] for role, kinds in one.parts.items()},
            "layouts": [
                {
                    "id": layout.id,
                    "writable": layout.is_writable,
                    "note": layout.note,
                    "readers": list(layout.readers),
                    "same_as": same,
                }
                for layout, same in zip(one.layouts, same_layouts(one), strict=True)
            ],
            "sizes": list(one.sizes),
            "variants": dict(one.variants),
            "sources": list(one.sources),
        }
        for one in all_families()
    ]
