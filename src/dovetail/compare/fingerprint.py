"""`fingerprint`: which model a checkpoint is, whatever layout, container and shards it is in."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dovetail.checkpoint import Path, opened
from dovetail.edit.contents import leaf_contents
from dovetail.edit.write.certificate import fingerprint as fingerprint_of
from dovetail.store.content import ALGORITHM


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


def fingerprint(checkpoint: Path, **options: Any) -> str:
    """The fingerprint of a checkpoint: equal exactly when the weights are. Options as in `identify`.

    Raises:
        CheckpointError: it is of no known family, damaged, or holds no values.
        UsageError: there is nothing to open, or something must be known that no file says.
    """
    return identify(checkpoint, **options).fingerprint


def identify(
    checkpoint: Path,
    *,
    as_: str | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Identity:
    """Reads all values of a checkpoint and says which model it is.

    Raises:
        CheckpointError: it is of no known family, damaged, or holds no values.
        UsageError: there is nothing to open, or something must be known that no file says.
    """
    with opened(checkpoint, as_=as_, given=given, to_be="fingerprinted") as source:
        contents = leaf_contents(source, progress=progress)
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
