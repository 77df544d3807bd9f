"""`checkpoint_metadata.json`, the side file in which PanoVLM keeps what its resampler was built with.

The writer of that project fails on typed configs and leaves half a file; this one writes strict JSON and
keeps every field that is there already. `d_inner` stands beside `expand`, which does not give it back for
all widths.

Source: wooseungw/panollava@ab73e9e `legacy/scripts_old/train.py:MetadataCallback`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from dovetail.checkpoint import Checkpoint
from dovetail.edit.side_files.config_json import put
from dovetail.errors import UsageError
from dovetail.report import Value

NAME = "checkpoint_metadata.json"
_ROLE = "resampler"
_MODEL = (
    "vision_name",
    "language_model_name",
    "resampler_type",
    "latent_dimension",
    "image_size",
    "max_text_length",
    "vicreg_loss_weight",
    "overlap_ratio",
)


def side_file(
    source: Checkpoint, values: Mapping[str, Value], existing: bytes | None, *, overwrite: bool
) -> bytes:
    """The text of the file, with every field of the one that is there.

    Raises:
        UsageError: the file that is there cannot be read, and may not be replaced.
    """
    fields = parsed(existing, overwrite=overwrite)
    for one in source.corrections:
        if one.found.document == NAME:
            put(fields, one.found.key, one.value)
    made = checkpoint_metadata(source, values, fields)
    return (json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def checkpoint_metadata(
    source: Checkpoint, values: Mapping[str, Value], existing: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields that are there, and what the weights and the checkpoint itself say of the model."""
    inside = source.store.metadata.get("torch")
    inside = inside if isinstance(inside, dict) else {}
    hyper = _dict(inside.get("hyper_parameters"))
    sizes = {
        name.partition(".")[2]: value.value for name, value in values.items() if name.startswith(f"{_ROLE}.")
    }
    model = {key: hyper[key] for key in _MODEL if hyper.get(key) is not None}
    if hyper.get("model_overlap_ratio") is not None:
        model["overlap_ratio"] = hyper["model_overlap_ratio"]
    model |= _dict(existing.get("model_config"))
    if kind := _kind(source):
        model["resampler_type"] = kind
    for key, size in (("latent_dimension", "out_dim"), ("resampler_hidden_dim", "hidden_dim")):
        if size in sizes:
            model[key] = sizes[size]
    model["resampler_config"] = {**_dict(model.get("resampler_config")), **sizes}
    progress = {"current_epoch": inside.get("epoch"), "global_step": inside.get("global_step")}
    made = {"pytorch_lightning_version": inside.get("pytorch-lightning_version")}
    stage = {"stage": hyper["stage"]} if isinstance(hyper.get("stage"), str) else {}
    filled = {
        **stage,
        **existing,
        "model_config": model,
        "epoch_info": _with(progress, existing.get("epoch_info")),
        "checkpoint_info": _with(made, existing.get("checkpoint_info")),
    }
    return {key: _strict(value) for key, value in filled.items() if value != {}}


def parsed(text: bytes | None, *, overwrite: bool) -> dict[str, Any]:
    """The fields of a file that is there; none of one that is not, or that may be replaced.

    Raises:
        UsageError: it is no JSON object, and may not be replaced.
    """
    if text is None:
        return {}
    try:
        values = json.loads(text, parse_constant=str)
        if isinstance(values, dict):
            return values
        why = f"it holds a {type(values).__name__}, not an object"
    except (ValueError, RecursionError) as error:
        why = str(error)
    if overwrite:
        return {}
    raise UsageError(
        f"the {NAME} that is there cannot be read: {why}",
        hint="--overwrite writes it anew, without its fields",
    )


def _kind(source: Checkpoint) -> str | None:
    """The project's word for the resampler; of some the tensors do not say which they are."""
    match = source.explanation.roles.get(_ROLE)
    return match.part.facts.named_by[-1] if match and match.part.facts.named_by else None


def _with(values: Mapping[str, Any], existing: Any) -> dict[str, Any]:
    """Known values under those that are there already."""
    return {**{key: value for key, value in values.items() if value is not None}, **_dict(existing)}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strict(value: Any) -> Any:
    """The value as JSON has it: numbers that are none as words."""
    if isinstance(value, dict):
        return {str(key): _strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
