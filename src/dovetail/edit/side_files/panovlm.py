"""`checkpoint_metadata.json`, the side file in which PanoVLM keeps what its resampler was built with.

The writer of that project fails on typed configs and leaves half a file; this one writes strict JSON and
keeps every field that is there already. `d_inner` stands beside `expand`, which does not give it back for
all widths.

A training says more: its settings, and where it stood when it was saved. Epochs are those that are done.

Source: wooseungw/panollava@ab73e9e `legacy/scripts_old/train.py:MetadataCallback`.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
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


# Where the project keeps settings of the model and of its images.
_SECTIONS = ("model_config.", "training_config.")
# What a training says of itself, and the words of the project for it.
_TRAINING = {
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate_grad_batches",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "weight_decay": "weight_decay",
    "seed": "seed",
}
_OF_IMAGES = {"crop_strategy": "crop_strategy", "fov_deg": "fov_deg", "view_overlap": "overlap_ratio"}


def side_file(
    source: Checkpoint,
    values: Mapping[str, Value],
    existing: bytes | None,
    *,
    overwrite: bool,
    training: Mapping[str, Any] | None = None,
) -> bytes:
    """The text of the file, with every field of the one that is there; `training` is the record of a run
    (`train/record.py`) that has just saved.

    Raises:
        UsageError: the file that is there cannot be read, and may not be replaced.
    """
    fields = parsed(existing, overwrite=overwrite)
    for one in source.corrections:
        if one.found.document == NAME:
            put(fields, one.found.key, one.value)
    made = checkpoint_metadata(source, values, fields)
    if training is not None:
        made = _strict(with_training(made, values, training))
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
        **_sections(source, values, existing),
        "epoch_info": _with(progress, existing.get("epoch_info")),
        "checkpoint_info": _with(made, existing.get("checkpoint_info")),
    }
    for setting in source.family.settings:
        place = next((one for one in setting.spellings if one.startswith(_SECTIONS)), setting.name)
        if setting.name in values:
            put(filled, place, values[setting.name].value)
    return {key: _strict(value) for key, value in filled.items() if value != {}}


def _sections(
    source: Checkpoint, values: Mapping[str, Value], existing: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What no weight shows of the tower and of the language model, as a config.json has it: the project
    looks both up under their names in the hub, which are not said of every model."""
    found: dict[str, dict[str, Any]] = {}
    for role, part in source.kinds.items():
        if role not in ("vision", "text"):
            continue
        section, *_ = source.family.config.roots[role]
        spelled = {name: words[0] for name, words in part.facts.spellings.items()}
        spelled |= {one.name: one.spellings[0] for one in part.facts.settings if one.spellings}
        said = {
            word: values[f"{role}.{name}"].value
            for name, word in spelled.items()
            if f"{role}.{name}" in values and values[f"{role}.{name}"].source != "weights"
        }
        found[section] = _over(existing.get(section), said)
    return found


def with_training(
    fields: Mapping[str, Any], values: Mapping[str, Value], training: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields with what a run says of itself in the place of what an earlier one said."""
    settings, versions = _dict(training.get("settings")), _dict(training.get("versions"))
    trained = training.get("trained")
    said = {theirs: settings.get(ours) for ours, theirs in _TRAINING.items()}
    said |= {theirs: values[ours].value for ours, theirs in _OF_IMAGES.items() if ours in values}
    said |= {"trained": trained, "use_lora": training.get("lora") is not None}
    precision = next((name for name in ("bf16", "fp16") if settings.get(name)), "32")
    epoch, loss = training.get("epoch"), _dict(training.get("metrics")).get("eval_loss")
    where = {
        "current_epoch": int(epoch) if isinstance(epoch, int | float) else None,
        "global_step": training.get("step"),
        "val_loss": loss,
    }
    made = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch_version": versions.get("torch"),
        "dovetail_version": versions.get("dovetail"),
    }
    return {
        **fields,
        "training_config": _over(fields.get("training_config"), said),
        "dataset": _over(fields.get("dataset"), {"fingerprint": training.get("data")}),
        "system": {"num_processes": settings.get("world_size"), "mixed_precision": precision},
        "config": _over(fields.get("config"), {"source_path": training.get("model")}),
        "epoch_info": where,
        "checkpoint_info": {name: value for name, value in made.items() if value is not None},
    }


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


def _over(existing: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Known values over those that are there already."""
    return {**_dict(existing), **{key: value for key, value in values.items() if value is not None}}


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
