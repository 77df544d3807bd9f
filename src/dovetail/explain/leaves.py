"""The leaves of a checkpoint by name, dtype and shape: what each is called everywhere, whatever the layout.

A leaf's full name is its role and its name in the part: `text.blocks.3.attn.q.weight`. Where its bytes
are is the business of `weights/stored_leaves.py`.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import repeat
from math import prod

from dovetail.declare.ops import Rename
from dovetail.declare.part import LeafSpec, Row
from dovetail.errors import CheckpointError, UsageError
from dovetail.explain.detect import Explanation
from dovetail.explain.match import RowMatch
from dovetail.explain.part_sizes import PartSizes
from dovetail.explain.sizes import Inference
from dovetail.store.store import Entry, Store

Header = tuple[str, tuple[int, ...]]  # dtype and shape


def canonical_name(role: str, leaf: LeafSpec, indices: Mapping[str, int]) -> str:
    """`text.blocks.3.attn.q.weight`."""
    return f"{role}.{leaf.template.format(**indices)}"


def leaf_names(explanation: Explanation, first_layer: int = 0) -> Iterator[str]:
    """The canonical names of all leaves; layers of the spine counted from `first_layer`."""
    spine = explanation.family.pipeline.spine
    for role, match in explanation.roles.items():
        for row in match.rows:
            for index, stored in row.tensors.items():
                fields = dict(zip(row.row.stored.fields, index, strict=True))
                if role in spine and "layer" in fields:
                    fields["layer"] += first_layer
                for member in members(row.row, explanation.inventory.entries.get(stored)):
                    for leaf in row.row.leaves:
                        yield canonical_name(role, match.part.leaves[leaf], {**fields, **member})


def leaf_headers(explanation: Explanation, inference: Inference, store: Store) -> dict[str, Header]:
    """Dtype and shape of every leaf by full name, second names of the same bytes left out.

    Raises:
        CheckpointError: a shape is not what its family declares.
        UsageError: the shape of a leaf depends on a size that nothing decides.
    """
    headers: dict[str, Header] = {}
    for role, match in explanation.roles.items():
        sizes = PartSizes(role, match.part, inference.solver)
        for row in match.rows:
            leaves = [match.part.leaves[name] for name in row.row.leaves]
            for index, stored in row.tensors.items():
                entry, named = store.entries[stored], dict(zip(row.row.stored.fields, index, strict=True))
                shapes = leaf_shapes(role, row, leaves, entry=entry, sizes=sizes, stored=stored)
                for member in members(row.row, entry):
                    for leaf, shape in zip(leaves, shapes, strict=True):
                        headers[canonical_name(role, leaf, {**named, **member})] = entry.dtype, shape
    return headers


def members(row: Row, entry: Entry | None) -> list[dict[str, int]]:
    """What the index that a stored tensor is stacked over runs through; one empty member without any."""
    if row.op.index is None:
        return [{}]
    if entry is None or not entry.shape:
        return []  # how many there are stands in the shape alone
    return [{row.op.index: member} for member in range(entry.shape[0])]


def is_stored_plainly(row: RowMatch, store: Store) -> bool:
    """Whether every tensor of a row is one leaf, its elements in their own order."""
    return isinstance(row.row.op, Rename) and store.has_shapes


@lru_cache(maxsize=32)
def named_indices(
    fields: tuple[str, ...], indices: tuple[tuple[int, ...], ...]
) -> tuple[Mapping[str, int], ...]:
    """Indices by field: the same for every row of a stack, so made once for all of them."""
    return tuple(map(dict, map(zip, repeat(fields), indices)))


def leaf_shapes(
    role: str, row: RowMatch, leaves: list[LeafSpec], *, entry: Entry, sizes: PartSizes, stored: str
) -> list[tuple[int, ...]]:
    """The shape of each leaf in a stored tensor: that of the tensor itself wherever the op lets it; the
    same for every member of a stack over an index.

    Raises:
        CheckpointError: the tensor is not as large as its leaves are together.
        UsageError: a shape depends on a size that nothing decides.
    """
    if entry.shape is None:
        raise CheckpointError(
            "this input has names only, no shapes",
            tensor=stored,
            hint="give the weights, or a listing with shapes",
        )
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
        raise UsageError(
            f"the shape of `{stored}` depends on {error}, which nothing decides",
            hint="`dovetail inspect` shows what is open; say it with --set",
        ) from error
    total = sum(map(prod, shapes)) * len(members(row.row, entry))
    if total != prod(entry.shape):
        raise CheckpointError(
            "the tensor does not have the size that its parts have together",
            tensor=stored,
            expected=f"{total:,} elements",
            found=f"{prod(entry.shape):,}",
            hint="`dovetail validate` says what does not fit",
        )
    return shapes
