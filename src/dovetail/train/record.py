"""What a run is: everything that decides its losses, and what it was run with.

It stands in `training.json` beside the state of the Trainer and in the certificate of every checkpoint. A run
that goes on must be the same run: other data or other settings are refused, each by its name.
"""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import transformers

import dovetail
from dovetail.errors import CheckpointError, UsageError

NAME = "training.json"
Record = dict[str, Any]
# The arguments of the Trainer that decide the losses. How often is logged, evaluated and saved, and how many
# workers read the data, is not among them.
_DECIDING = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "warmup_ratio",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "optim_args",
    "seed",
    "data_seed",
    "bf16",
    "fp16",
    "dataloader_drop_last",
    "train_sampling_strategy",
)
_PACKAGES = ("torch", "transformers", "accelerate", "peft")


def record_of(args: transformers.TrainingArguments, *, model: str, known: Mapping[str, Any]) -> Record:
    """The record of a run: the checkpoint that it begins with, the arguments of the Trainer that decide its
    losses, and what else is known to (the fingerprint of the data, what is trained, the label policy)."""
    settings = {name: _plain(getattr(args, name)) for name in _DECIDING if hasattr(args, name)}
    return {
        "model": os.path.abspath(model),
        "settings": settings,
        **{name: _plain(value) for name, value in known.items()},
        "versions": _versions(),
    }


@cache
def _versions() -> Mapping[str, str]:
    """What computes, with its versions."""
    versions = {"dovetail": dovetail.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def read_record(folder: str) -> Record:
    """The record of the checkpoint in a folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = os.path.join(folder, NAME)
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"`{folder}` cannot be gone on with: its {NAME} cannot be read",
            found=getattr(error, "strerror", None) or str(error),
            hint="it is no save of `dovetail train`; begin a new run with it as --model",
        ) from error
    assert isinstance(values, dict)
    return values


def as_text(record: Mapping[str, Any]) -> str:
    """The record as it is written."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def check_same(now: Record, then: Record, folder: str) -> None:
    """Refuses to go on with a run under another record.

    Raises:
        UsageError: the data, a setting or what is trained is another; all of them are named.
    """
    differing = {name: pair for name, pair in _compared(now, then).items() if pair[0] != pair[1]}
    if not differing:
        return
    names = list(differing)
    is_data = any(name.startswith("data") for name in names)
    what = "other data" if is_data else f"another {names[0]}"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    said = {name: f"{before} then, {after} now" for name, (after, before) in list(differing.items())[:10]}
    raise UsageError(
        f"`{folder}` is of a run with {what}{more}: going on would be another run",
        **{name.replace(".", "_"): text for name, text in said.items()},
        hint=f"give what was given then, or begin a new run from it: --model {folder} --output-dir ANOTHER",
    )


def _whole(folder: str, then: Record) -> str:
    """What of a run can be begun with: the save, or the whole model that --merge writes beside an adapter."""
    return os.path.join(os.path.dirname(folder), "merged") if "lora" in then else folder


def _compared(now: Record, then: Record) -> dict[str, tuple[Any, Any]]:
    """What decides the losses, as it is now and as it was then, by name."""
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in {**now, **then}:
        if name in ("versions", "model", "step", "epoch", "metrics"):
            continue
        mine, theirs = now.get(name), then.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            inside = "" if name == "settings" else f"{name}."
            common = mine.keys() & theirs.keys() if name == "settings" else {**mine, **theirs}
            pairs |= {f"{inside}{key}": (mine.get(key), theirs.get(key)) for key in sorted(common)}
        else:
            pairs[name] = (mine, theirs)
    return pairs


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value, default=lambda one: getattr(one, "value", str(one))))
