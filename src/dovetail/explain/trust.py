"""Which side counts where weights, config files, the certificate and the caller contradict each other.

A contradiction is an error that names both sides, until the caller says with `--trust SIDE` which of them is
right: then the other value is set aside, and the report says so. `dovetail stamp` writes down what was set
aside, so that it need not be said again. What the caller says by name (`--set`) counts before configs and
certificate. What a tensor shows cannot be said otherwise: trusting a config makes no tensor another size.
"""

from dovetail.errors import UsageError
from dovetail.explain.documents import Documents, Found, Side
from dovetail.report import Finding

SIDES: tuple[Side, ...] = ("weights", "config", "stamp")
TRUST_WEIGHTS = "`--trust weights` goes on with what the tensors are"
_COUNTS = {"weights": "the weights count", "config": "the config counts", "stamp": "the certificate counts"}


def side_of(word: str | None) -> Side | None:
    """The side that a caller trusts.

    Raises:
        UsageError: there is no such side.
    """
    found = next((side for side in SIDES if side == word), None)
    if word is not None and found is None:
        raise UsageError(f"`{word}` is no side that can be trusted", hint=f"one of: {', '.join(SIDES)}")
    return found


def judged(finding: Finding, *, kept: Side, found: Found, documents: Documents) -> Finding:
    """A contradiction as an error with the way on, or as settled where somebody has said who is right.

    `kept` says the value that counts, `found` is what says otherwise.
    """
    if found.side != "set" and (kept == "set" or documents.has_set_aside(found)):
        why = "what --set says counts" if kept == "set" else "the certificate sets it aside"
        return Finding(
            code="overruled",
            severity="note",
            part=finding.part,
            message=f"{finding.message}; {why}",
            tensors=finding.tensors,
        )
    if kept == documents.trust and found.side not in (kept, "set"):
        return overruled(finding, kept)
    return finding._replace(hint=_way_on(finding.hint, kept, found, documents.trust))


def overruled(finding: Finding, kept: Side) -> Finding:
    """A contradiction that the caller has settled."""
    return Finding(
        code="overruled",
        severity="warning",
        part=finding.part,
        message=f"{finding.message}; {_COUNTS[kept]}, as --trust {kept} says",
        tensors=finding.tensors,
        hint=f"`dovetail stamp --trust {kept}` writes that down",
    )


def _way_on(hint: str | None, kept: Side, found: Found, trust: Side | None) -> str:
    """What the caller can do about a contradiction."""
    if found.side == "set":
        option = found.document.partition(" ")[0]
        return f"it is not what {option} says: find the checkpoint that is, or leave the {option} out"
    if kept == "weights":
        firm = f"--trust {trust} makes no tensor another; " if trust else ""
        right = hint or f"correct {found.document}, or find the weights that it describes"
        return f"{firm}{TRUST_WEIGHTS}; or {right}"
    if kept == found.side:
        return f"correct {found.document}, or say with --set NAME=NUMBER which is right"
    return "`--trust config` or `--trust stamp` says which of the two is right"
