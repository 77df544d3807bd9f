"""`load_stage`: some layers of a model that reads tokens, from a node of a split or from all of it.

    load_stage("out/node1")                                   a folder that `dovetail split` wrote
    load_stage("out/chunks/2nodes_finisher/model_starter.pth")  a LitGPT chunk with its certificate
    load_stage("Qwen2-VL-2B-Instruct", layers=range(14, 28))  a whole checkpoint, of which only this is read

Sizes and settings of what is elsewhere come from the certificate of the node. The first stage has all that
comes before the first layer, the last one all that comes after the last; a head that is the token table is
a matrix of its own in a last stage that is not the first.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.family import Family
from dovetail.errors import CheckpointError, UsageError
from dovetail.explain.config import family_settings, part_settings
from dovetail.explain.nodes import Node
from dovetail.inputs.values import Values, values_of
from dovetail.loading.load import Dtype, StoredWeights, check_whole, no_collection, usable_device
from dovetail.models import build
from dovetail.models.kernels import Weights, choose_kernels
from dovetail.models.language import LanguageModel
from dovetail.models.layers import Linear
from dovetail.models.stage import Stage
from dovetail.report import Value
from dovetail.weights.leaf import Leaf


def load_stage(
    source: Path,
    layers: range | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
    weights: Weights | None = None,
    max_tokens: int | None = None,
) -> Stage:
    """The stage of these layers, numbered over the whole model; without `layers` those of the node, or all.

    `max_tokens` bounds the cache. The other options are those of `load`, and so is what is raised, and:

    Raises:
        UsageError: the model reads no tokens, or the node has other layers.
        CheckpointError: the chunk has no certificate, which says what the other chunks hold.
    """
    place = usable_device(device)
    with no_collection(), opened(source, as_=as_, given=settings, trust=trust) as checkpoint:
        model = model_of_stage(checkpoint, layers, dtype=dtype)
    model = model.eval().to(place)
    if weights is not None:
        choose_kernels(model, weights)
    return Stage(model, max_tokens=max_tokens)


def model_of_stage(
    checkpoint: Checkpoint, layers: range | None = None, *, dtype: Dtype | None = None
) -> LanguageModel:
    """The model of a stage, without the parts that are not of it; raises what `load_stage` raises."""
    node = checkpoint.documents.node
    if node is None:
        _check_no_chunk(checkpoint)
        check_whole(checkpoint)
    family = checkpoint.family
    values = values_of(checkpoint) if node is None else _values_of_node(checkpoint, node)
    check_whole(checkpoint, values.values)
    here = _layers(values, node, layers)
    model = build(values)
    if not isinstance(model, LanguageModel):
        raise UsageError(
            f"{family.id} is not run in stages: it reads no tokens", hint="`dovetail.load` loads it whole"
        )
    weights = StoredWeights(checkpoint, values)
    leaves = _leaves_here(checkpoint, node, weights.leaves)
    _cut(model, family, here)
    if model.decoder.layers.stop == model.decoder.config.layers and here.start:
        _own_head(model, family, leaves)
    if node is None:
        wanted = model.state_dict(keep_vars=True).keys()
        leaves = {name: leaf for name, leaf in leaves.items() if name in wanted}
    weights.assign(model, leaves, prefix="", dtype=dtype)
    return model


def _check_no_chunk(checkpoint: Checkpoint) -> None:
    """Refuses a chunk that does not say what it is of."""
    if checkpoint.is_piece:
        raise CheckpointError(
            "a chunk by itself does not say which layers it has",
            file=checkpoint.report.path,
            hint="put the certificate that `dovetail split` wrote beside it, or give the folder with all "
            "chunks and layers=range(FIRST, LAST + 1)",
        )


def _values_of_node(checkpoint: Checkpoint, node: Node) -> Values:
    """The values of the whole model that a node is of: what its own tensors and the files beside it say, and
    of the parts that are elsewhere what the certificate says."""
    own, documents = values_of(checkpoint), checkpoint.documents
    kinds = {role: own.family.kind(role, kind) for role, kind in node.kinds.items()}
    stamped = node.values.get("config")
    values = {
        name: Value(one.get("value"), "stamp", f"dovetail.json: config.{name}")
        for name, one in (stamped.items() if isinstance(stamped, dict) else ())
        if isinstance(one, dict)
    }
    for role, part in kinds.items():
        values |= part_settings(role, part, own.family, documents)
    values |= {**family_settings(own.family, documents), **own.values}
    given = documents.given.items()
    values |= {name: Value(value, "given", "the caller") for name, value in given if name in values}
    features = {role: own.features.get(role, frozenset(part.features)) for role, part in kinds.items()}
    return replace(own, kinds=kinds, features=features, values=values)


def _layers(values: Values, node: Node | None, layers: range | None) -> range:
    """The layers of the stage.

    Raises:
        UsageError: the node has others.
    """
    if node is not None and node.layers is not None:
        first, last = node.layers
        if layers not in (None, range(first, last + 1)):
            raise UsageError(
                f"layers {layers.start} to {layers.stop - 1} are not those of this node",
                expected=f"{first} to {last}",
                hint="leave layers out",
            )
        return range(first, last + 1)
    total = values.values[f"{values.family.pipeline.spine[0]}.layers"].value
    return range(total) if layers is None else layers


def _leaves_here(checkpoint: Checkpoint, node: Node | None, leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The leaves by their names in the whole model; chunks number their layers from 0."""
    first = node.layers[0] if node is not None and node.layers else 0
    shift = first - int(node.fact.get("numbered_from", first)) if node is not None else 0
    if not shift:
        return dict(leaves)
    spine = checkpoint.family.pipeline.spine
    here = (_shifted(leaf, shift) if leaf.role in spine else leaf for leaf in leaves.values())
    return {leaf.name: leaf for leaf in here}


def _shifted(leaf: Leaf, shift: int) -> Leaf:
    """A leaf of a layer that many layers on."""
    if "layer" not in leaf.indices:
        return leaf
    indices = {**leaf.indices, "layer": leaf.indices["layer"] + shift}
    return leaf._replace(name=f"{leaf.role}.{leaf.spec.template.at(indices)}", indices=indices)


def _cut(model: LanguageModel, family: Family, layers: range) -> None:
    """Takes away from a model what is not of a stage."""
    decoder = model.decoder
    decoder.keep(layers)
    is_last = layers.stop == decoder.config.layers
    for role, part in list(model.named_children()):
        if part is not decoder:
            stays = is_last if family.pipeline.is_last(f"{role}.weight") else layers.start == 0
            if not stays:
                setattr(model, role, None)


def _own_head(model: LanguageModel, family: Family, leaves: dict[str, Leaf]) -> None:
    """Gives a last stage, which has no token table, the head that is tied to it."""
    for role, table in family.ties.items():
        if getattr(model, role, None) is None:
            config = model.decoder.config
            with torch.device("meta"):
                head: nn.Module = Linear(config.d_model, config.vocab, bias=False)
            setattr(model, role, head)
            leaves.setdefault(f"{role}.weight", leaves.get(table) or leaves[f"{role}.weight"])
