"""`fingerprint`: which model a checkpoint is, whatever layout, container and shards it is in."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dovetail.checkpoint import Path, opened
from dovetail.store.content import ALGORITHM
from dovetail.weights.hashes import Progress
from dovetail.weights.hashes import fingerprint as fingerprint_of


class Identity(NamedTuple):
    """The fingerprint of a checkpoint, and what it was made of.

    `certified` is the fingerprint that the certificate beside the weights has, None without one.
    """

    path: str
    family: str
    layout: str | Mapping[str, str] | None
    fingerprint: str
    leaves: int
    bytes: int
    certified: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        layout = self.layout if isinstance(self.layout, str | None) else dict(self.layout)
        return {"schema": 1, **self._asdict(), "layout": layout, "hash": ALGORITHM}


def fingerprint(
    checkpoint: Path,
    *,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> str:
    """The fingerprint of a checkpoint: equal exactly when the weights are.

    Raises:
        CheckpointError: it is of no known family, damaged, or holds no values.
        UsageError: there is nothing to open, or something must be known that no file says.
    """
    return identify(checkpoint, as_=as_, set=set, trust=trust, progress=progress).fingerprint


def identify(
    checkpoint: Path,
    *,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Identity:
    """Reads all values of a checkpoint and says which model it is.

    Raises:
        CheckpointError: it is of no known family, damaged, or holds no values.
        UsageError: there is nothing to open, or something must be known that no file says.
    """
    with opened(checkpoint, as_=as_, given=set, trust=trust, to_be="fingerprinted") as source:
        contents = source.contents(progress)
        stamp = source.documents.stamp
        certified = stamp.values.get("fingerprint") if stamp else None
        return Identity(
            path=source.report.path,
            family=source.family.id,
            layout=source.report.layout,
            fingerprint=fingerprint_of(source.family, contents),
            leaves=len(contents),
            bytes=sum(leaf.size for leaf in source.leaves.values()),
            certified=certified if isinstance(certified, str) else None,
        )
