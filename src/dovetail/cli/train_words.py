"""The options of `train` in the words of other trainers: those of LLaVA-NeXT and of its wrappers.

--model_name_or_path CKPT   is   --model CKPT
--epochs 3                  is   --num_train_epochs 3, which the Trainer knows
--bits 16                   is   nothing: 16 bits are no quantisation
"""

from collections.abc import Mapping, Sequence

from dovetail.errors import UsageError

# what others call an option -> what it is here, with a value as before
RENAMED: Mapping[str, str] = {
    "--model_name_or_path": "--model",
    "--backbone_model": "--backbone",
    "--alt_checkpoint": "--model",
    "--data_path": "--data",
    "--val_data_path": "--val-data",
    "--image_folder": "--image-root",
    "--batch_size": "--per_device_train_batch_size",
    "--epochs": "--num_train_epochs",
    "--lr": "--learning_rate",
    "--log_dir": "--logging_dir",
    "--log_steps": "--logging_steps",
    "--model_max_length": "--max-length",
    "--group_by_modality_length": "--length-grouping",
    "--group_by_length": "--length-grouping",
    "--mm_tunable_parts": "--tune",
    "--resume_from_checkpoint": "--resume",
    "--lora_r": "--lora-rank",
}
# what others say with a word that is another here
_VALUES: Mapping[str, Mapping[str, str]] = {
    "--tune": {
        "mm_vision_tower": "vision",
        "mm_vision_resampler": "projector",
        "mm_mlp_adapter": "projector",
        "mm_language_model": "language",
    },
}
_RATES: Mapping[str, str] = {"--mm_vision_tower_lr": "vision", "--mm_projector_lr": "projector"}
# options whose value can only be one of these here, and why
_FIXED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "--bits": (("16", "32"), "weights are trained as they are, not quantised"),
    "--attn_implementation": (
        ("eager", "sdpa"),
        "one attention computes every variant, in prefill and in decoding",
    ),
    "--version": (("qwen_1_5", "qwen_2"), "the checkpoint's own chat template makes conversations"),
    "--lazy_preprocess": (("True", "true"), "samples are always read when they are needed"),
}
_FLAGS: Mapping[str, Sequence[str]] = {
    "--use_lazy_dataset": (),
    "--use_tensorboard": ("--report_to", "tensorboard"),
    "--inspect_data_verbose": ("--inspect-data",),
}


def modern(words: Sequence[str], own: Sequence[str]) -> list[str]:
    """Words of a command as this program has them; `own` are the options of the verb.

    Raises:
        UsageError: one means something that is not done here.
    """
    known = {name.replace("-", "_").lstrip("_"): name for name in own}
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            found.append(word)
            continue
        name, equals, value = word.partition("=")
        if name in _FLAGS:
            found += _FLAGS[name]
        elif name in _FIXED:
            _check_fixed(name, value if equals else (left.pop(0) if left else ""))
        elif name in _RATES:
            rate = value if equals else (left.pop(0) if left else "")
            found += ["--part-lr", f"{_RATES[name]}={rate}"]
        elif name == "--device":
            place = value if equals else (left.pop(0) if left else "")
            found += ["--use_cpu"] if place == "cpu" else []  # the Trainer takes a GPU where there is one
        elif name == "--eval_every_steps":
            steps = value if equals else (left.pop(0) if left else "")
            found += ["--eval_strategy", "steps", "--eval_steps", steps]
        else:
            here = RENAMED.get(name) or known.get(name.replace("-", "_").lstrip("_"), name)
            if here in _VALUES:
                value = value if equals else (left.pop(0) if left else "")
                equals, value = "=", _translated(value, _VALUES[here])
            found.append(f"{here}{equals}{value}")
    return found


def _translated(value: str, words: Mapping[str, str]) -> str:
    return ",".join(dict.fromkeys(words.get(one.strip(), one.strip()) for one in value.split(",")))


def _check_fixed(name: str, value: str) -> None:
    allowed, why = _FIXED[name]
    if value not in allowed:
        raise UsageError(
            f"`{name} {value}` cannot be: {why}", hint=f"leave it out, or say {' or '.join(allowed)}"
        )
