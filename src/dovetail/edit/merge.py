"""`merge`: the nodes of a split put together again, the exact inverse of `split`.

Nodes with certificates must be all nodes of one model, and the result must have the fingerprint that
they name, or nothing is published. Chunk folders that others wrote say nothing of their origin: their
layers are numbered by the order of the files, and the config beside them says how many there must be.
"""

import os
from collections.abc import Mapping
from typing import Any

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.edit.conversion import Conversion, Words, words_of
from dovetail.edit.convert import conversion_plan
from dovetail.edit.plan import Plan
from dovetail.edit.write.execute import Done, Progress, Writing, execute
from dovetail.edit.write.files import DEFAULT_SHARD
from dovetail.errors import UsageError

_NO_CHANGES = Conversion()


def merge(
    directory: Path,
    out: Path,
    *,
    to: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Done:
    """Writes one model from the nodes in a folder, in the layout that it was split from or in another.

    All words are those of `convert`.

    Raises:
        CheckpointError: nodes are missing, of different models, overlap or have gaps.
        UsageError: the folder holds no nodes, or `out` exists.
        WriteError: there is no room or no permission; what was written is kept for `resume`.
    """
    asked = Conversion(to, format, max_shard_size, allow=words_of(allow))
    with opened(directory, as_=as_, given=set, trust=trust, allow=asked.allow, to_be="changed") as source:
        plan = merge_plan(source, asked)
        return execute(plan, os.fspath(out), Writing(overwrite, resume, sync), progress)


def merge_plan(source: Checkpoint, asked: Conversion = _NO_CHANGES) -> Plan:
    """What a merge of opened nodes writes.

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
    layout = asked.to or (
        split_from if isinstance(split_from, str) and _is_writable(source, split_from) else None
    )
    plan = conversion_plan(source, asked._replace(to=layout))
    promised = stamp.get("fingerprint")
    is_exact = not plan.lossy and not asked.without and asked.pad_vocab == 1 and not source.allowed
    return plan._replace(verb="merge", promised=promised if is_exact else None)


def _is_writable(source: Checkpoint, id: str) -> bool:
    return any(layout.id == id and layout.is_writable for layout in source.family.layouts)
