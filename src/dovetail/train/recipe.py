"""All that one training is asked for, beside the arguments of the Trainer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dovetail.errors import UsageError

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training: from what, with which data, of which parts, and where to.

    From a checkpoint (`model`), or from the language model of `backbone` put together with a tower, a
    projector and what `model` has of the rest (`init_from_backbone`). `target` is what they become: a
    config, FAMILY/SIZE or a family, whose sizes are then those of the parts. `settings` are values that no
    file says. `variant` is which of a family's schedules it must be, `force` makes it that one.

    `learn` says whether all answers of a conversation are learned or the `last` only.
    `tune` are the parts that are trained: projector, language, vision, all, or roles of the family; with
    `lora`, matrices beside frozen layers are (`lora.py`), and the other parts that it names as a whole;
    `merge` writes the whole model at the end as well. `save_for` is the program that is to open the saves
    (`transformers==4.57`). `rates` are learning rates of single parts, `dtype`
    is that of the parameters in memory. `arguments` are those of `transformers.TrainingArguments`.

    Of a policy, `camera_map` has `NAME-IN-DATA=NAME-IN-POLICY` texts, `statistics` says by which states and
    actions are normalised (those of the checkpoint, of the data, or none), `padding` which actions count
    (`data/policy.py`), and `tokenizer` is that of a folder that has none.
    """

    output_dir: Path
    data: Path | None = None
    model: Path | None = None
    backbone: Path | None = None
    init_from_backbone: bool = False
    vision_tower: Path | None = None
    projector: Path | None = None
    target: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant: str = "auto"
    force: bool = False
    trust: str | None = None
    val_data: Path | None = None
    image_root: Path | None = None
    max_samples: int | None = None
    eval_max_batches: int | None = None
    max_length: int | None = None
    packing: bool = False
    pack_tokens: int | None = None
    length_grouping: bool = False
    learn: str = "all"
    on_error: str = "stop"
    tune: Sequence[str] = ("all",)
    rates: Mapping[str, float] = field(default_factory=dict)
    lora_rank: int = 16
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_targets: Sequence[str] = ()
    merge: bool = False
    dtype: str = "float32"
    save_for: str | None = None
    throughput_log_steps: int = 0
    camera_map: Sequence[str] = ()
    statistics: str = "checkpoint"
    padding: str = "auto"
    tokenizer: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def recipe_of(words: Mapping[str, Any]) -> Recipe:
    """A recipe from plain words: those that it has no field for are arguments of the Trainer.

    Raises:
        UsageError: one is a field of neither.
    """
    own = {one.name for one in fields(Recipe)} - {"arguments"}
    more = {name: value for name, value in words.items() if name not in own}
    if more:
        from transformers import TrainingArguments

        known = {one.name for one in fields(TrainingArguments)}
        if unknown := [name for name in more if name not in known]:
            from dovetail.errors import suggestion

            raise UsageError(
                f"training takes no `{unknown[0]}`",
                hint=suggestion(
                    unknown[0], [*own, *known], "it takes the fields of Recipe and of TrainingArguments"
                ),
            )
    return Recipe(**{name: value for name, value in words.items() if name in own}, arguments=more)
