"""`train`: a training of a model in any layout, on the Trainer of transformers.

What is trained is printed, labels are certified and long samples refused before the first step; every save
is a checkpoint of dovetail's.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dovetail.data.episodes import is_episodes
from dovetail.edit.graft import checked
from dovetail.edit.write.execute import Writing, execute
from dovetail.errors import UsageError
from dovetail.render.graft_page import graft_page
from dovetail.render.page import Page
from dovetail.train.lessons import Lessons, opened_samples, read_lessons
from dovetail.train.lessons_page import lessons_page
from dovetail.train.plan import LORA, STORED, TrainPlan, lora_of
from dovetail.train.plan_page import train_page
from dovetail.train.planned import opened_model, planned, refuse_config_alone
from dovetail.train.recipe import Path, Recipe, recipe_of
from dovetail.train.start import opened_assembly, settings_of

if TYPE_CHECKING:
    from dovetail.train.grouped_loader import Grouping
    from dovetail.train.lora import Lora
    from dovetail.train.module import TrainingModule
    from dovetail.train.policy_lessons import PolicyLessons

START = "start"
Show = Callable[[Page], None]
Progress = Callable[[int, int], None]


class Trained(NamedTuple):
    """What a training ended with: the last save, the steps, and the last of each number that was logged."""

    path: str
    steps: int
    metrics: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {**self._asdict(), "metrics": dict(self.metrics)}


def train(
    model: Path | None = None,
    *,
    data: Path,
    output_dir: Path,
    resume: bool | str = False,
    show: Show | None = None,
    progress: Progress | None = None,
    **words: Any,
) -> Trained:
    """Trains a checkpoint on a manifest, and saves checkpoints in its own layout into `output_dir`.

    `words` are the fields of `dovetail.train.recipe.Recipe` (`tune=["projector"]`, `rates={"vision": 2e-6}`,
    `val_data`, `packing`) and of `transformers.TrainingArguments` (`per_device_train_batch_size=8`). `show`
    is given pages to print: what is trained, what is learned. `progress` is told how many samples have been
    looked at. `resume` goes on from the newest save, or from the one that it names.

    Raises:
        UsageError: a word is wrong, nothing would be trained, or nothing says what to begin with.
        DataError: a sample cannot be learned, or is too long.
        CheckpointError: the checkpoint is not whole.
        WriteError: a save could not be written.
    """
    recipe = recipe_of({"model": model, "data": data, "output_dir": output_dir, **words})
    return run(recipe, resume=resume, show=show, progress=progress)


def run(
    recipe: Recipe,
    *,
    resume: bool | str = False,
    show: Show | None = None,
    progress: Progress | None = None,
    command: str = "dovetail.train",
) -> Trained:
    """Carries a recipe out; raises what `train` raises. `command` is what the page of the run says of it."""
    tell = show or (lambda page: None)
    refuse_config_alone(recipe)
    if recipe.data is None:
        raise UsageError("nothing says what to learn from", hint="give --data MANIFEST")
    plan = planned(recipe)
    tell(train_page(plan))
    seed = int(recipe.arguments.get("seed", 42))
    is_robot = is_episodes(recipe.data)
    if not is_robot:
        samples = opened_samples(
            recipe.data, image_root=recipe.image_root, most=recipe.max_samples, seed=seed
        )
    from dovetail.train.arguments import training_arguments

    args = training_arguments(recipe)
    with args.main_process_first(desc="the start"):
        start, settings = _begun(recipe, is_resumed=bool(resume) or args.process_index > 0, tell=tell)
    begin = _Begin(start, settings, args, command)
    if is_robot:
        return _trained_on_episodes(recipe, plan, begin, tell, resume=resume, progress=progress)
    from dovetail.data.labels import read_labeller

    labeller = read_labeller(start, settings=settings, trust=recipe.trust, learn=recipe.learn)
    look = {"max_length": recipe.max_length, "on_error": recipe.on_error, "progress": progress}
    lessons = read_lessons(labeller, samples, **look)  # type: ignore[arg-type]
    tell(lessons_page(lessons, called=os.fspath(recipe.data)))
    validation = None
    if recipe.val_data is not None:
        most = None
        if recipe.eval_max_batches is not None:
            most = recipe.eval_max_batches * args.per_device_eval_batch_size * args.world_size
        held_out = opened_samples(recipe.val_data, image_root=recipe.image_root, most=most, seed=seed)
        validation = read_lessons(labeller, held_out, **look)  # type: ignore[arg-type]
        tell(lessons_page(validation, called=os.fspath(recipe.val_data)))
    return _trained(recipe, plan, begin, lessons, validation, resume=resume)


class _Begin(NamedTuple):
    """The checkpoint to load, what `load` is told of it, the arguments of the Trainer, and the command."""

    path: str
    settings: Mapping[str, Any]
    args: Any
    command: str


def _begun(recipe: Recipe, *, is_resumed: bool, tell: Show) -> tuple[str, dict[str, Any]]:
    """The checkpoint that training begins with; one that is put together is written into the run first."""
    if not recipe.init_from_backbone:
        with opened_model(recipe) as found:
            said = {**recipe.settings, **settings_of(recipe, found)}
        return os.fspath(recipe.model or ""), said
    place = os.path.join(recipe.output_dir, START)
    if not (is_resumed and os.path.isdir(place)):
        with opened_assembly(recipe) as graft:
            tell(graft_page(graft, place))
            execute(checked(graft), place, Writing())
    return place, {}


def _trained_on_episodes(
    recipe: Recipe,
    plan: TrainPlan,
    begin: _Begin,
    tell: Show,
    *,
    resume: bool | str,
    progress: Progress | None,
) -> Trained:
    """Trains a policy on what a robot did."""
    from dovetail.data.episodes import open_episodes
    from dovetail.train.policy_lessons import lessons_of, policy_page, read_policy_lessons

    lessons = read_policy_lessons(recipe, begin.path, begin.settings, progress=progress)
    tell(policy_page(lessons))
    validation = None
    if recipe.val_data is not None:
        validation = lessons_of(recipe, lessons.policy, open_episodes(recipe.val_data))
        tell(policy_page(validation))
    return _trained(recipe, plan, begin, lessons, validation, resume=resume)


def _trained(
    recipe: Recipe,
    plan: TrainPlan,
    begin: _Begin,
    lessons: "Lessons | PolicyLessons",
    validation: "Lessons | PolicyLessons | None",
    *,
    resume: bool | str,
) -> Trained:
    """Runs the Trainer."""
    from dovetail.train.throughput import Throughput, operations_of
    from dovetail.train.trainer import Trainer
    from dovetail.train.watching import watching

    args = begin.args
    module = _module(recipe, plan, begin)
    lessons.prepare(module.model)
    trainer = Trainer(
        module,
        args,
        data=lessons.rows,
        val_data=None if validation is None else validation.rows,
        collate=lessons.batches,
        like=begin.path,
        reader=recipe.save_for,
        known=_known(recipe, plan, lessons, validation),
        rates={part.role: part.rate for part in plan.parts if part.rate not in (None, args.learning_rate)},
        grouping=_grouping(recipe, lessons, args) if isinstance(lessons, Lessons) else None,
        side_files=[lessons.side_files],
        lora=_lora(recipe, plan),
        merges=recipe.merge,
    )
    if recipe.throughput_log_steps:
        speed = Throughput(recipe.throughput_log_steps, trainer.count, operations_of(module.model))
        speed.log = trainer.log
        trainer.add_callback(speed)
    said = {"model": begin.path, "data": os.fspath(recipe.data or ""), "trained": _names(plan)}
    with watching(trainer, title=f"Training of {plan.family}", said=said, command=begin.command):
        trainer.train(resume_from_checkpoint=resume or None)
    last = os.path.realpath(os.path.join(recipe.output_dir, "last"))
    metrics = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    return Trained(last, trainer.state.global_step, metrics)


def _module(recipe: Recipe, plan: TrainPlan, begin: _Begin) -> "TrainingModule":
    """The model with its loss, frozen where the plan says so."""
    from dovetail.loading.load import load
    from dovetail.train.lora import add_lora
    from dovetail.train.module import TrainingModule

    dtype = None if recipe.dtype == STORED else recipe.dtype
    model = load(begin.path, dtype=dtype, settings=begin.settings, trust=recipe.trust)
    lora = _lora(recipe, plan)
    if lora is not None:
        add_lora(model, lora, seed=begin.args.seed)
    for part in plan.parts:
        if lora is None and not part.is_trained:
            model.get_submodule(part.role).requires_grad_(False)
    return TrainingModule(model, {"is_packed": True} if recipe.packing else {})


def _lora(recipe: Recipe, plan: TrainPlan) -> "Lora | None":
    return lora_of(recipe, [part.role for part in plan.parts if part.is_trained and part.role != LORA])


def _grouping(recipe: Recipe, lessons: Lessons, args: Any) -> "Grouping | None":
    """What makes the batches, where they are not random ones of one size."""
    from dovetail.train.grouped_loader import by_length, to_budget

    lengths, size = lessons.certificate.lengths, args.per_device_train_batch_size
    if recipe.packing:
        return to_budget(lengths, recipe.pack_tokens or size * max(lengths), args.seed)
    return by_length(lengths, size, args.seed) if recipe.length_grouping else None


def _known(
    recipe: Recipe,
    plan: TrainPlan,
    lessons: "Lessons | PolicyLessons",
    validation: "Lessons | PolicyLessons | None",
) -> dict[str, Any]:
    """What decides the losses beside the arguments of the Trainer: a run goes on under the same only."""
    return {
        "data": lessons.fingerprint,
        "val_data": None if validation is None else validation.fingerprint,
        "labels": {**lessons.labels(), "max_length": recipe.max_length},
        "packing": recipe.packing,
        "pack_tokens": recipe.pack_tokens,
        "length_grouping": recipe.length_grouping,
        "dtype": recipe.dtype,
        "variant": None if plan.variant is None else plan.variant.value,
    }


def _names(plan: TrainPlan) -> str:
    return ", ".join(part.role for part in plan.parts if part.is_trained)
