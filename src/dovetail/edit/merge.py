"""`merge`: the nodes of a split put together again, the exact inverse of `split`.

Nodes with certificates must be all nodes of one model, and the result must have the fingerprint that
they name, or nothing is published. Chunk folders that others wrote say nothing of their origin: their
layers are numbered by the order of the files, and the config beside them says how many there must be.
"""

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.edit.convert import Changes, plan_convert
from dovetail.edit.plan import Plan
from dovetail.edit.write.execute import Done, execute
from dovetail.errors import UsageError

_NO_CHANGES = Changes()


def merge(
    directory: Path,
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
    """Writes one model from the nodes in a folder, in the layout that it was split from or in another.

    Without `sync` it is left to the system when the bytes reach the disk, as `cp` leaves it.

    Raises:
        CheckpointError: nodes are missing, of different models, overlap or have gaps.
        UsageError: the folder holds no nodes, or `out` exists.
        WriteError: there is no room or no permission; nothing is left behind.
    """
    with opened(directory, as_=as_, allow=allow, given=given, to_be="changed") as source:
        plan = plan_merge(source, to=to, changes=changes)
        return execute(
            plan, os.fspath(out), is_resumed=resume, replaces=replace, is_synced=sync, progress=progress
        )


def plan_merge(source: Checkpoint, *, to: str | None = None, changes: Changes = _NO_CHANGES) -> Plan:
    """What `merge` would write.

    Raises:
        UsageError: the source is no split model.
    """
    if source.store.format not in ("nodes", "chunks"):
        raise UsageError(
            f"`{source.report.path}` is one checkpoint, not the nodes of one",
            hint="give the folder that `dovetail split` wrote, or one of LitGPT chunks",
        )
    stamp = source.documents.stamp.values if source.documents.stamp else {}
    origin = stamp.get("source")
    split_from = origin.get("layout") if isinstance(origin, dict) else None
    layout = to or (split_from if isinstance(split_from, str) and _is_writable(source, split_from) else None)
    plan = plan_convert(source, to=layout, changes=changes)
    promised = stamp.get("fingerprint")
    is_exact = not plan.lossy and not changes.without and changes.pad_vocab == 1 and not source.allowed
    return plan._replace(verb="merge", promised=promised if is_exact else None)


def _is_writable(source: Checkpoint, id: str) -> bool:
    return any(layout.id == id and layout.is_writable for layout in source.family.layouts)
