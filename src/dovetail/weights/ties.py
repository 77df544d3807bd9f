"""Tied parts: tensors that a model has once and that some layouts store twice."""

from collections.abc import Sequence

from dovetail.declare.family import Family
from dovetail.weights.leaf import Leaf


def tied_copies(family: Family, leaves: Sequence[Leaf]) -> list[Leaf]:
    """A copy of what it shares for each tied part that is not among the leaves."""
    by_name = {leaf.name: leaf for leaf in leaves}
    there = {leaf.role for leaf in leaves}
    copies = []
    for role, original in family.ties.items():
        if role not in there and original in by_name:
            (spec,) = family.parts[role][0].leaves.values()
            copies.append(
                by_name[original]._replace(
                    name=f"{role}.{spec.name}", role=role, spec=spec, indices={}, init="tied"
                )
            )
    return copies
