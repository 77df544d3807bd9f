"""The models, one readable file each; torch begins here.

Parameters are called as their family declares them, below the role of their part:
`text.blocks.3.attn.q.weight`. Nothing here reads files: `dovetail.loading.load` does.
"""

from typing import TYPE_CHECKING

from dovetail.declare.reference import referenced
from dovetail.errors import UsageError
from dovetail.families import all_families
from dovetail.inputs.values import Values, asking_at_once

if TYPE_CHECKING:
    from torch import nn


def build(values: Values) -> "nn.Module":
    """A model without weights: every parameter is on `meta`. Its `values` are those given here.

    Raises:
        UsageError: there is no model of the family here, or a value that it needs is not known.
        DeclarationError: the family names a model that cannot be imported.
    """
    import torch

    family = values.family
    if not family.model:
        there = ", ".join(one.id for one in all_families() if one.model)
        raise UsageError(f"dovetail has no model of {family.id}", hint=f"it has: {there}")
    with torch.device("meta"):
        model: nn.Module = asking_at_once(referenced(family.model), values)
    model.values = values  # type: ignore[assignment]
    return model
