"""`load_part`: one part of a model, or some layers of its decoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.errors import UsageError, listed
from dovetail.loading.load import Dtype, StoredWeights, no_collection, usable_device
from dovetail.loading.stage import model_of_stage
from dovetail.models.decoder import Decoder


def load_part(
    checkpoint: Path,
    role: str,
    *,
    layers: range | None = None,
    device: str | torch.device = "cpu",
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
) -> nn.Module:
    """One part of a model (`vision`, `text`), or a range of the layers of its decoder.

    Layers keep their own numbers. A tied head is a matrix of its own here, as a stage without the table
    needs it. Of a node of a split it is what the node has. Raises what `load` raises, and:

    Raises:
        UsageError: the model, or the node, has no such part, or no such layers.
    """
    place = usable_device(device)
    with no_collection(), opened(checkpoint, as_=as_, given=settings, trust=trust) as found:
        if found.documents.node is not None:
            part = _of_node(found, role, layers, dtype)
        else:
            part = _of_all(found, role, layers, dtype)
    return part.eval().to(place)


def _of_all(checkpoint: Checkpoint, role: str, layers: range | None, dtype: Dtype | None) -> nn.Module:
    weights = StoredWeights(checkpoint, compares_ties=True)
    part, leaves = weights.part(role)
    if layers is not None:
        if not isinstance(part, Decoder):
            raise UsageError(
                f"{role} is no decoder: it cannot be cut into layers",
                hint="layers can be chosen of a decoder only",
            )
        part.keep(layers)
        kept = {f"{role}.{name}" for name, _ in part.named_parameters()}
        leaves = {name: leaf for name, leaf in leaves.items() if name in kept}
    weights.assign(part, leaves, prefix=f"{role}.", dtype=dtype)
    return part


def _of_node(checkpoint: Checkpoint, role: str, layers: range | None, dtype: Dtype | None) -> nn.Module:
    parts = dict(model_of_stage(checkpoint, layers, dtype=dtype).named_children())
    if role not in parts:
        raise UsageError(
            f"this node has no part `{role}`",
            hint=f"it has {listed(parts)}; give the folder with all nodes for what is elsewhere",
        )
    return parts[role]
