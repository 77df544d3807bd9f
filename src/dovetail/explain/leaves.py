"""The canonical leaves of a checkpoint: what each is called everywhere, and where its bytes are in this file.

A leaf's full name is its role and its name in the part: `text.blocks.3.attn.q.weight`, whatever the
layout. Its bytes are spans of stored tensors; nearly always one span, the whole of one tensor.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import repeat
from math import prod
from typing import NamedTuple

from dovetail.declare.ops import Rename, Shape
from dovetail.declare.part import LeafSpec, Part
from dovetail.dims import Expression, Solver, shape_of
from dovetail.dtypes import BITS
from dovetail.errors import CheckpointError, UsageError
from dovetail.explain.detect import Explanation
from dovetail.explain.match import RowMatch
from dovetail.explain.sizes import Inference
from dovetail.store.store import Entry, Store


class Span(NamedTuple):
    """A run of bytes inside a stored tensor; `start` counts from the tensor's own first byte."""

    tensor: str
    start: int
    length: int


class CanonicalLeaf(NamedTuple):
    """One leaf of one role, with its bytes.

    `spans` is None where the leaf's elements lie scattered in `stored` and must be rearranged: then
    `match` is the stored tensor's row and `position` the leaf's place among those it joins.
    """

    name: str
    role: str
    leaf: LeafSpec
    indices: Mapping[str, int]
    dtype: str
    shape: tuple[int, ...]
    stored: str
    spans: tuple[Span, ...] | None
    match: RowMatch
    position: int

    @property
    def bytes(self) -> int:
        """The bytes that the elements take."""
        return prod(self.shape) * BITS[self.dtype] // 8


class Sizes(Mapping[str, int]):
    """The sizes of one part by the part's own names."""

    @abstractmethod
    def evaluate(self, shape: Shape) -> tuple[int, ...]:
        """The numbers of a symbolic shape.

        Raises:
            KeyError: nothing decides an axis.
        """

    def unproved(self, needs: Iterable[str]) -> list[str]:
        """Those of some dims that bytes must not depend on: nothing says them, or a mere convention."""
        return [dim for dim in needs if dim not in self]


class KnownSizes(Sizes):
    """Sizes that are all given."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes

    def __getitem__(self, dim: str) -> int:
        return self._sizes[dim]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def evaluate(self, shape: Shape) -> tuple[int, ...]:
        return shape_of(shape, self)


class PartSizes(Sizes):
    """The sizes of one part as the solver knows them.

    A product that is known as a whole (`q_heads head_dim`) can be had through `evaluate` without its
    factors.
    """

    def __init__(self, role: str, part: Part, solver: Solver) -> None:
        self._role = role
        self._part = part
        self._solver = solver

    def __getitem__(self, dim: str) -> int:
        size = self._solver.get(f"{self._role}.{dim}")
        if size is None:
            raise KeyError(dim)
        return size.value

    def __iter__(self) -> Iterator[str]:
        return (dim for dim in self._part.dims if dim in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, dim: object) -> bool:
        return self._solver.get(f"{self._role}.{dim}") is not None

    def unproved(self, needs: Iterable[str]) -> list[str]:
        return [dim for dim in needs if dim not in self or self._is_guess(dim)]

    def _is_guess(self, dim: str) -> bool:
        """Whether a size is, or follows from, what a family only usually has."""
        size = self._solver.get(f"{self._role}.{dim}")
        if size is None or size.source != "default":
            return False
        usual = {name: why for name, _, why in self._part.facts.conventions}
        known = {name: self._solver.get(f"{self._role}.{name}") for name in usual}
        return any(one is not None and one.evidence[0] == usual[name] for name, one in known.items())

    def evaluate(self, shape: Shape) -> tuple[int, ...]:
        return tuple(self._axis(axis) for axis in shape)

    def _axis(self, axis: Expression) -> int:
        return sum(self._term(Expression((term,))) for term in axis.terms)

    def _term(self, term: Expression) -> int:
        try:
            return term.evaluate(self)
        except KeyError:
            renamed = term.rename(lambda dim: self._solver.root(f"{self._role}.{dim}"))
            factor, monomial = renamed.terms[0]
            if monomial not in self._solver.products:
                raise
            return factor * self._solver.products[monomial].value


def canonical_leaves(one: Explanation, inference: Inference, store: Store) -> dict[str, CanonicalLeaf]:
    """Every leaf of every role by full name, second names of the same bytes left out.

    Raises:
        CheckpointError: a shape is not what its family declares.
        UsageError: where a leaf's bytes are depends on a size that nothing decides.
    """
    leaves: dict[str, CanonicalLeaf] = {}
    for role, match in one.roles.items():
        sizes = PartSizes(role, match.part, inference.solver)
        for row in match.rows:
            leaves |= {leaf.name: leaf for leaf in leaves_of_row(role, match.part, row, sizes, store)}
    return leaves


def leaves_of_row(
    role: str, part: Part, row: RowMatch, sizes: PartSizes, store: Store
) -> Iterator[CanonicalLeaf]:
    """The leaves in the tensors of one row.

    Raises:
        CheckpointError: a shape is not what its family declares.
        UsageError: where a leaf's bytes are depends on a size that nothing decides.
    """
    if is_stored_plainly(row, store):
        yield from _renamed(role, part.leaves[row.row.leaves[0]], row, store)
        return
    for index, stored in row.found.items():
        yield from _leaves_of(role, part, row, index, stored=stored, sizes=sizes, store=store)


def is_stored_plainly(row: RowMatch, store: Store) -> bool:
    """Whether every tensor of a row is one leaf, its elements in their own order."""
    return isinstance(row.row.op, Rename) and store.has_shapes


def leaf_names(one: Explanation, first_layer: int = 0) -> Iterator[str]:
    """The canonical names of all leaves; layers of the spine counted from `first_layer`."""
    spine = one.family.pipeline.spine
    for role, match in one.roles.items():
        for row in match.rows:
            for index in row.found:
                fields = dict(zip(row.row.stored.fields, index, strict=True))
                if role in spine and "layer" in fields:
                    fields["layer"] += first_layer
                for leaf in row.row.leaves:
                    yield canonical_name(role, match.part.leaves[leaf], fields)


def _renamed(role: str, leaf: LeafSpec, row: RowMatch, store: Store) -> Iterator[CanonicalLeaf]:
    """The leaves of a row that are stored as they are."""
    indices = named_indices(row.row.stored.fields, tuple(row.found))
    for named, stored in zip(indices, row.found.values(), strict=True):
        entry = store.entries[stored]
        assert entry.shape is not None
        name, spans = f"{role}.{leaf.template.at(named)}", (Span(stored, 0, entry.bytes),)
        yield CanonicalLeaf(name, role, leaf, named, entry.dtype, entry.shape, stored, spans, row, 0)


@lru_cache(maxsize=32)
def named_indices(
    fields: tuple[str, ...], indices: tuple[tuple[int, ...], ...]
) -> tuple[Mapping[str, int], ...]:
    """Indices by field: the same for every row of a stack, so made once for all of them."""
    return tuple(map(dict, map(zip, repeat(fields), indices)))


def canonical_name(role: str, leaf: LeafSpec, indices: Mapping[str, int]) -> str:
    """`text.blocks.3.attn.q.weight`."""
    return f"{role}.{leaf.template.format(**indices)}"


def _leaves_of(
    role: str,
    part: Part,
    row: RowMatch,
    index: tuple[int, ...],
    *,
    stored: str,
    sizes: PartSizes,
    store: Store,
) -> Iterator[CanonicalLeaf]:
    entry = store.entries[stored]
    leaves = [part.leaves[name] for name in row.row.leaves]
    shapes = _leaf_shapes(row, leaves, entry, role=role, sizes=sizes, stored=stored)
    runs = None if entry.shape is None else row.row.op.runs(shapes, sizes)
    width = BITS[entry.dtype] if entry.dtype else 0
    named = dict(zip(row.row.stored.fields, index, strict=True))
    for position, (leaf, shape) in enumerate(zip(leaves, shapes, strict=True)):
        spans = None
        if runs is not None:
            spans = tuple(
                Span(stored, run.start * width // 8, run.length * width // 8) for run in runs[position]
            )
        name = canonical_name(role, leaf, named)
        yield CanonicalLeaf(name, role, leaf, named, entry.dtype, shape, stored, spans, row, position)


def _leaf_shapes(
    row: RowMatch, leaves: list[LeafSpec], entry: Entry, *, role: str, sizes: PartSizes, stored: str
) -> list[tuple[int, ...]]:
    """The shape of each leaf in a stored tensor: that of the tensor itself wherever the op lets it."""
    if entry.shape is None:
        raise CheckpointError("this input has names only, no shapes", tensor=stored)
    if isinstance(row.row.op, Rename):
        return [entry.shape]
    if missing := sizes.unproved(row.row.op.needs):
        raise UsageError(
            f"`{stored}` can only be taken apart when {missing[0]} is known, and nothing says it",
            hint=f"put the model's config.json beside the weights, or give --set {role}.{missing[0]}=NUMBER",
        )
    try:
        shapes = [sizes.evaluate(leaf.shape) for leaf in leaves]
    except KeyError as error:
        raise UsageError(f"the shape of `{stored}` depends on {error}, which nothing decides") from error
    if sum(map(prod, shapes)) != prod(entry.shape):
        raise CheckpointError(
            "the tensor does not have the size that its parts have together",
            tensor=stored,
            expected=f"{sum(map(prod, shapes)):,} elements",
            found=f"{prod(entry.shape):,}",
        )
    return shapes
