"""Whether the values are still those that the certificate has hashes of."""

from collections.abc import Callable, Mapping
from typing import Any

from dovetail.checkpoint import Checkpoint
from dovetail.errors import DovetailError
from dovetail.explain.certificate import is_about
from dovetail.report import Finding, Report, counted, more
from dovetail.weights.hashes import LeafContent, contents_of, fingerprint
from dovetail.weights.leaf import Leaf

Progress = Callable[[int, int], None]


def certified_leaves(checkpoint: Checkpoint) -> Mapping[str, Leaf]:
    """The leaves that can be held against the certificate: none if there is no certificate of this file.

    Raises:
        DovetailError: where the leaves are cannot be said.
    """
    stamp = checkpoint.documents.stamp
    is_other = any(finding.code == "other-certificate" for finding in checkpoint.report.findings)
    if stamp is None or not checkpoint.is_known or is_other or not is_about(stamp):
        return {}
    if checkpoint.documents.node is not None:
        return {}  # `merge` holds the nodes of a model against each other
    return checkpoint.leaves


def recheck(
    report: Report, checkpoint: Checkpoint, leaves: Mapping[str, Leaf], progress: Progress | None
) -> Report:
    """The report with what changed since the certificate was written.

    Raises:
        DovetailError: the values cannot be read.
    """
    stamp = checkpoint.documents.stamp
    if stamp is None or not leaves:
        return report
    contents = contents_of(checkpoint.store, leaves, progress=progress)
    said: Mapping[str, Any] = stamp.values["leaves"]
    known = [name for name in contents if isinstance(said.get(name), str)]
    if not known:
        return report.replace(unchecked=(*report.unchecked, f"content ({stamp.name} has no hashes)"))
    changed = [name for name in known if contents[name].hash != said[name]]
    if changed:
        return report.with_findings(_changed(stamp.name, changed, len(known), leaves))
    return _with_fingerprint(report, checkpoint, contents)


def _changed(certificate: str, names: list[str], known: int, leaves: Mapping[str, Leaf]) -> Finding:
    stored = tuple(dict.fromkeys(span.tensor for name in names for span in leaves[name].spans))
    if 2 * len(names) > known > 1:
        return Finding(
            code="other-certificate",
            severity="error",
            message=f"{certificate} is the certificate of another checkpoint: "
            f"{len(names):,} of {counted(known, 'tensor')} have other values than it says",
            tensors=stored,
            hint=f"remove {certificate}, or put the right one there; "
            "`dovetail stamp --overwrite` writes it anew",
        )
    return Finding(
        code="content",
        severity="error",
        message=f"`{names[0]}`{more(len(names) - 1)} of {counted(known, 'tensor')}: the values are not those "
        f"that {certificate} has the hash of",
        tensors=stored,
        hint="a disk or a tool changed them after the certificate was written; if that was meant, "
        "`dovetail stamp --overwrite` writes it anew",
    )


def _with_fingerprint(report: Report, checkpoint: Checkpoint, contents: Mapping[str, LeafContent]) -> Report:
    """All hashes are right; so must the fingerprint be, which is made of them."""
    stamp, family = checkpoint.documents.stamp, checkpoint.family
    assert stamp is not None
    said = stamp.values.get("fingerprint")
    found = fingerprint(family, contents)
    if stamp.values.get("family") != family.id or said in (None, found):
        return report
    return report.with_findings(
        Finding(
            code="content",
            severity="error",
            message=f"{stamp.name} has the fingerprint {said}, its own hashes give {found}",
            hint="somebody edited it; `dovetail stamp --overwrite` writes it anew",
        )
    )


def why_not(error: DovetailError) -> str:
    """What was not checked, in words for the report."""
    return f"content against the certificate ({error.message})"
