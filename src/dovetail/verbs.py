"""The verbs that only read: inspect, validate, families."""

import os
from collections.abc import Callable
from typing import Any

from dovetail.declare.family import Family
from dovetail.declare.lookalikes import same_layouts
from dovetail.errors import DovetailError
from dovetail.explain.examine import Examination, examine
from dovetail.families import all_families, built_in, family, third_party
from dovetail.report import Report
from dovetail.store.open import open_checkpoint
from dovetail.store.store import Store

Path = str | os.PathLike[str]


def inspect(checkpoint: Path) -> Report:
    """What a checkpoint is: family, layout, sizes with their evidence, and what is wrong by its header.

    Moves headers only; takes milliseconds.

    Raises:
        UsageError: there is nothing to open.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
    """
    with open_checkpoint(checkpoint) as store:
        return examine(store, built_in, more_families=third_party).report


def validate(
    checkpoint: Path,
    *,
    as_: str | None = None,
    values: bool = False,
    forward: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Whether a checkpoint is whole. `as_` (`family` or `family/layout`) asserts what it must be.

    `values` reads all data as well: NaN and infinities, zeros, copies that differ, tensors that look
    freshly initialised, values that changed since the certificate was written. `progress` is then told
    the bytes read so far and the bytes in all. `forward` runs a whole checkpoint once on made-up input of
    its true shapes, which needs torch.

    Raises:
        UsageError: there is nothing to open, or `as_` names no family or layout.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
    """
    wanted = _asserted(as_) if as_ else None
    with open_checkpoint(checkpoint) as store:
        examination = _examine(store, wanted)
        report = _with_values(examination, progress) if values else examination.report
    if not forward:
        return report
    from dovetail.parity.forward import with_forward

    return with_forward(report, checkpoint, as_=as_)


def _with_values(examination: Examination, progress: Callable[[int, int], None] | None) -> Report:
    """The report with what the data shows, and whether it is what the certificate says."""
    from dovetail.compare.recheck import certified_leaves, recheck, why_not
    from dovetail.explain.values import check_values

    try:
        leaves = certified_leaves(examination) if examination.store.has_bytes else {}
    except DovetailError as error:
        report = check_values(examination, progress=progress)
        return report.replace(unchecked=(*report.unchecked, why_not(error)))
    hashed = sum(leaf.size for leaf in leaves.values())
    read = 0

    def looking(done: int, total: int) -> None:
        nonlocal read
        read = total
        if progress:
            progress(done, total + hashed)

    report = check_values(examination, progress=looking)
    return recheck(
        report, examination, leaves, progress and (lambda done, _: progress(read + done, read + hashed))
    )


def _asserted(text: str) -> tuple[Family, str | None]:
    """The family of `family` or `family/layout`, and the layout if there is one."""
    id, _, layout = text.partition("/")
    one = family(id)
    return one, one.layout(layout).id if layout else None


def _examine(store: Store, wanted: tuple[Family, str | None] | None) -> Examination:
    if wanted is None:
        return examine(store, built_in, more_families=third_party)
    return examine(store, tuple, as_family=wanted[0], as_layout=wanted[1])


def families() -> list[dict[str, Any]]:
    """What is known: `{family, title, parts, layouts: [{id, writable, note, same_as}], sizes}` each."""
    return [
        {
            "family": one.id,
            "title": one.title,
            "parts": {role: [part.id for part in kinds] for role, kinds in one.parts.items()},
            "layouts": [
                {"id": layout.id, "writable": layout.is_writable, "note": layout.note, "same_as": same}
                for layout, same in zip(one.layouts, same_layouts(one), strict=True)
            ],
            "sizes": list(one.sizes),
            "variants": dict(one.variants),
            "sources": list(one.sources),
        }
        for one in all_families()
    ]
