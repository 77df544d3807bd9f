"""Leaves that no checkpoint has: their values from a seed, as the family begins to train.

The seed of a leaf depends on its canonical name alone, so that a model made twice from one seed is the
same model, whatever the layouts.
"""

from collections.abc import Iterator
from functools import partial
from math import prod
from zlib import crc32

from dovetail.declare.blueprint import Blueprint, PlannedLeaf
from dovetail.errors import UsageError
from dovetail.explain.leaves import canonical_name
from dovetail.weights.leaf import Leaf

# `layout.initial` makes so many numbers at a time (numpy is not imported to plan), and so many bytes go
# into each on the way from a generator to a dtype.
_BLOCK = 1 << 18
_PER_NUMBER = 32


def fresh(planned: PlannedLeaf, dtype: str, seed: int) -> Leaf:
    """A leaf with initial values.

    Raises:
        UsageError: the seed is below 0.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed} is no seed", hint="a seed is a whole number from 0 up")
    name = canonical_name(planned.role, planned.leaf, planned.indices)
    values = partial(_values, planned.leaf.init, name, shape=planned.shape, dtype=dtype, seed=seed)
    return Leaf(
        name=name,
        role=planned.role,
        spec=planned.leaf,
        indices=planned.indices,
        shape=planned.shape,
        dtype=dtype,
        source_dtype=dtype,
        init="random",
        make=values,
        working=min(prod(planned.shape), _BLOCK) * _PER_NUMBER,
    )


def _values(rule: str, name: str, *, shape: tuple[int, ...], dtype: str, seed: int) -> Iterator[bytes]:
    import numpy as np

    from dovetail.weights.initial import initial_chunks

    key = np.random.SeedSequence(seed, spawn_key=(crc32(name.encode()),))
    return initial_chunks(rule, shape, dtype, key)


def fresh_model(plan: Blueprint, dtype: str, seed: int) -> list[Leaf]:
    """Every leaf of a model with initial values."""
    return [fresh(leaf, dtype, seed) for leaf in plan.leaves()]
