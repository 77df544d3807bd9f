"""The arguments of the Trainer: those that were given, and what a training of ours takes by default."""

from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from transformers import TrainingArguments

from dovetail.errors import UsageError
from dovetail.train.recipe import Recipe

# The Trainer would log every 500 steps, and leave losses that are no numbers out of the log.
_DEFAULTS: Mapping[str, Any] = {"logging_steps": 10, "logging_nan_inf_filter": False, "save_total_limit": 2}

# What newer Trainers call arguments that older ones know by the first name.
_SPELLINGS: Mapping[str, str] = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The arguments of a recipe; what it does not say is the Trainer's default, or ours where that hides
    something.

    Raises:
        UsageError: one is no value of its kind, or does not fit the others.
    """
    given = dict(recipe.arguments)
    words = {**_DEFAULTS, **given, "output_dir": str(recipe.output_dir), "remove_unused_columns": False}
    if not torch.cuda.is_available():
        words.setdefault("use_cpu", True)
    if "report_to" not in given:
        words["report_to"] = ["tensorboard"] if find_spec("tensorboard") else []
    if recipe.val_data is not None and "eval_strategy" not in given:
        words["eval_strategy"] = "steps" if "eval_steps" in given else "epoch"
    known = {one.name for one in fields(TrainingArguments)}
    for old, new in _SPELLINGS.items():
        if old in words and new in known:
            words[new] = words.pop(old)
    try:
        args = TrainingArguments(**words)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"the Trainer refuses its arguments: {str(error).splitlines()[0]}",
            hint="`dovetail train --help` lists ours; the others are those of transformers.TrainingArguments",
        ) from error
    check_arguments(args)
    if "eval_strategy" in given and args.eval_strategy != "no" and recipe.val_data is None:
        raise UsageError(
            f"evaluation by `{given['eval_strategy']}` wants data to evaluate on",
            hint="give --val-data MANIFEST, or leave the option out",
        )
    return args


def given_arguments(words: list[str]) -> dict[str, Any]:
    """The arguments of the Trainer among words of a command line, without its defaults.

    Raises:
        UsageError: there is no such option, or a value is none of its kind.
    """
    import argparse

    from dovetail.errors import suggestion

    class Words(transformers.HfArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(message, hint="it is an option of transformers.TrainingArguments")

    of: Any = TrainingArguments
    parser = Words(of, prog="dovetail train", add_help=False, allow_abbrev=False)
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    found, unknown = parser.parse_known_args(words)
    if unknown:
        known = [f"--{one.name}" for one in fields(TrainingArguments)]
        hint = suggestion(
            unknown[0],
            known,
            "`dovetail train --help` lists ours; all of transformers.TrainingArguments are taken too",
        )
        raise UsageError(f"there is no option `{unknown[0]}`", hint=hint)
    return vars(found)


def check_arguments(args: TrainingArguments) -> None:
    """Refuses what the Trainer can do to models of transformers only.

    Raises:
        UsageError: the arguments ask for it.
    """
    for name, why in {
        "label_smoothing_factor": "labels are not smoothed here",
        "neftune_noise_alpha": "embeddings get no noise here",
        "deepspeed": "DeepSpeed is not supported",
        "auto_find_batch_size": "a batch that changes while it runs is no experiment that can be repeated",
        "use_liger_kernel": "these kernels are for models of transformers",
        "torch_compile": "the shapes of a batch change with every step",
    }.items():
        if getattr(args, name, None):
            hint = f"leave --{name} out"
            raise UsageError(f"`{name}` cannot be: {why}", hint=hint)
    if args.n_gpu > 1:
        raise UsageError(
            f"one process sees {args.n_gpu} GPUs",
            hint="start one process for each: torchrun --nproc-per-node N -m dovetail train ..., "
            "or set CUDA_VISIBLE_DEVICES=0",
        )
