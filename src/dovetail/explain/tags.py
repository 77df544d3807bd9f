"""What the certificate says that no value shows: parameters nobody trained, damage that was let pass."""

from collections.abc import Iterator

from dovetail.errors import listed
from dovetail.explain.documents import Documents
from dovetail.report import Finding, counted

_QUIET = ("copied", "tied")


def tag_findings(documents: Documents) -> Iterator[Finding]:
    """One finding for each tag in the certificate, and one for each damage that was let pass."""
    stamp = documents.stamp
    if stamp is None:
        return
    init, allowed = stamp.values.get("init"), stamp.values.get("allowed")
    tags: dict[str, list[str]] = {}
    for name, tag in init.items() if isinstance(init, dict) else ():
        if isinstance(tag, str) and tag not in _QUIET:
            tags.setdefault(tag, []).append(name)
    for tag, names in tags.items():
        yield Finding(
            code="tagged",
            severity="warning",
            message=f"{counted(len(names), 'parameter')} {'is' if len(names) == 1 else 'are'} {tag}: "
            f"{listed([f'`{name}`' for name in names], 3)}",
            hint=f"{stamp.name} says so: they did not come from trained weights as they are",
        )
    for message in allowed if isinstance(allowed, list) else ():
        if isinstance(message, str):
            yield Finding(
                code="let-pass",
                severity="warning",
                message=f"damage was let pass when this was written: {message}",
                hint=f"{stamp.name} has carried it on; go back to a source that is whole",
            )
