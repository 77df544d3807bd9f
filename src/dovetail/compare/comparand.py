"""A checkpoint to compare: its tensors under names that the other checkpoint has too.

A damaged checkpoint can be compared as well; what no family explains goes by its stored name.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dovetail.checkpoint import Checkpoint
from dovetail.declare.family import Family
from dovetail.declare.part import LeafSpec
from dovetail.errors import DovetailError
from dovetail.report import Report
from dovetail.store.store import Entry, Store
from dovetail.weights.leaf import Leaf, Span


class Tensor(NamedTuple):
    """One tensor. `shape` is None where the input has names only."""

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...] | None
    is_dead: bool = False
    leaf: Leaf | None = None

    @property
    def text(self) -> str:
        """`BF16 [61, 7]`, or nothing where the input has names only."""
        return "" if self.shape is None else f"{self.dtype or '?'} {list(self.shape)}"


class Comparand(NamedTuple):
    """A checkpoint to compare. `why_stored` says why its names are those of the file, "" if they are not."""

    report: Report
    store: Store
    family: Family | None
    tensors: Mapping[str, Tensor]
    why_stored: str = ""

    @property
    def ties(self) -> Mapping[str, str]:
        """The leaf that each tied part may share."""
        return self.family.ties if self.family else {}


def by_canonical_name(checkpoint: Checkpoint) -> Comparand:
    """A comparand by canonical names; by stored ones if that cannot be."""
    if not checkpoint.is_known:
        return by_stored_name(checkpoint, "it is of no known family")
    store = checkpoint.store
    if not store.has_shapes:
        return by_stored_name(checkpoint, "it has names only")
    try:
        leaves = checkpoint.leaves
    except DovetailError as error:
        return by_stored_name(checkpoint, error.message)
    tensors = {
        leaf.name: Tensor(leaf.name, leaf.role, leaf.dtype, leaf.shape, leaf.spec.is_dead, leaf)
        for leaf in leaves.values()
    }
    for name in checkpoint.explanation.unexplained:
        tensors.setdefault(name, _stored(store, name, store.entries[name]))
    return Comparand(checkpoint.report, store, checkpoint.family, tensors)


def by_stored_name(checkpoint: Checkpoint, why: str) -> Comparand:
    """A comparand by the names in its files."""
    store = checkpoint.store
    tensors = {name: _stored(store, name, entry) for name, entry in store.entries.items()}
    return Comparand(checkpoint.report, store, None, tensors, why)


def _stored(store: Store, name: str, entry: Entry) -> Tensor:
    if entry.shape is None or not entry.dtype:
        return Tensor(name, "", entry.dtype, entry.shape)
    leaf = Leaf(
        name=name,
        role="",
        spec=LeafSpec(name, ""),
        indices={},
        shape=entry.shape,
        dtype=entry.dtype,
        source_dtype=entry.dtype,
        store=store,
        spans=(Span(name, 0, entry.bytes),),
    )
    return Tensor(name, "", entry.dtype, entry.shape, leaf=leaf)
