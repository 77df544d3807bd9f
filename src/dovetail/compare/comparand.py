"""One side of a comparison: the tensors of a checkpoint under names that the other side has too.

A damaged checkpoint can be compared as well; what no family explains goes by its stored name.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dovetail.declare.family import Family
from dovetail.declare.part import LeafSpec
from dovetail.errors import DovetailError
from dovetail.explain.examine import Examination
from dovetail.report import Report
from dovetail.store.store import Entry, Store
from dovetail.weights.leaf import Leaf, Span
from dovetail.weights.stored_leaves import stored_leaves


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


class Side(NamedTuple):
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


def by_leaf(examination: Examination) -> Side:
    """A side by canonical names; by stored ones if that cannot be."""
    report, store, one, inference = (
        examination.report,
        examination.store,
        examination.one,
        examination.inference,
    )
    if one is None or inference is None:
        return by_stored_name(examination, "it is of no known family")
    if not store.has_shapes:
        return by_stored_name(examination, "it has names only")
    try:
        leaves = stored_leaves(one, inference, store)
    except DovetailError as error:
        return by_stored_name(examination, error.message)
    tensors = {
        name: Tensor(name, its.role, its.dtype, its.shape, its.spec.is_dead, its)
        for name, its in leaves.items()
    }
    for name in one.unexplained:
        tensors.setdefault(name, _stored(store, name, store.entries[name]))
    return Side(report, store, one.family, tensors)


def by_stored_name(examination: Examination, why: str) -> Side:
    """A side by the names in its files."""
    store = examination.store
    tensors = {name: _stored(store, name, entry) for name, entry in store.entries.items()}
    return Side(examination.report, store, None, tensors, why)


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
