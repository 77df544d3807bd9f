"""`dovetail train --model CKPT --data MANIFEST --output-dir DIR`."""

import argparse
from typing import TYPE_CHECKING, Any

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.parser import Parser
from dovetail.cli.train_words import modern
from dovetail.cli.writing import add_trust_option, assignments
from dovetail.errors import UsageError

if TYPE_CHECKING:
    from dovetail.train.recipe import Recipe

_MODES = ("dry_run", "inspect_data", "inspect_weights")


def configure(parser: Parser) -> None:
    """Adds the options of the verb."""
    begin = parser.add_argument_group("what it begins with")
    begin.add_argument("--model", metavar="CKPT", help=CHECKPOINT)
    begin.add_argument("--backbone", metavar="CKPT", help="a language model to put a new model together with")
    begin.add_argument("--vision-tower", metavar="CKPT", help="its tower, or a model with one")
    begin.add_argument("--projector", metavar="CKPT", help="a model whose projector it gets; random if none")
    begin.add_argument(
        "--init-from-backbone",
        action="store_true",
        help="put the model together from --backbone and, in this order, the others, with an account",
    )
    begin.add_argument(
        "--config",
        dest="target",
        metavar="TARGET",
        help="what it becomes: a config.json, FAMILY/SIZE or FAMILY; llava_onevision by default",
    )
    begin.add_argument(
        "--variant",
        default="auto",
        metavar="VARIANT",
        help="auto (as the config says), base, alternating, alternating_cross; another one is refused",
    )
    begin.add_argument("--force", action="store_true", help="make it the --variant that it is not")
    begin.add_argument(
        "--set",
        dest="given",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="say what no file says, e.g. max_pixels=100352; may be repeated",
    )
    add_trust_option(parser)
    _add_data(parser.add_argument_group("what it learns from"))
    _add_robot(parser.add_argument_group("of a policy"))
    _add_parts(parser.add_argument_group("what of it is trained, and where to"))
    look = parser.add_argument_group("looking only")
    look.add_argument("--dry-run", action="store_true", help="what would be trained, and its memory; no data")
    look.add_argument("--inspect-data", action="store_true", help="what `dovetail data` says of --data")
    look.add_argument("--inspect-weights", action="store_true", help="where every weight would come from")
    look.add_argument("--json", action="store_true", help="the plan or the result as JSON")
    parser.takes_more(
        "every option of transformers.TrainingArguments is taken too: --per_device_train_batch_size 8, "
        "--learning_rate 2e-5, --num_train_epochs 3, --bf16, --gradient_checkpointing, --eval_steps 50, …"
    )
    parser.spell = lambda words: modern(words, parser.names)
    parser.set_defaults(run=run)


def _add_data(group: Any) -> None:
    group.add_argument("--data", metavar="MANIFEST", help="json, jsonl, yaml, {a,b}.json, shards; episodes")
    group.add_argument("--val-data", metavar="MANIFEST", help="what it is evaluated on as it goes")
    group.add_argument(
        "--eval-max-batches", metavar="N", type=int, help="evaluate on the first N batches of --val-data only"
    )
    group.add_argument("--image-root", metavar="DIR", help="where images lie; beside the manifest by default")
    group.add_argument("--max-samples", metavar="N", type=int, help="the first N samples only")
    group.add_argument(
        "--max-length", metavar="N", type=int, help="the most tokens of a sample; longer ones are refused"
    )
    group.add_argument(
        "--learn",
        choices=("all", "last"),
        default="all",
        help="learn all answers of a conversation (default) or the last one only",
    )
    group.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="a sample that cannot be learned stops the run (default), or is left out and counted",
    )
    group.add_argument(
        "--packing",
        metavar="TOKENS",
        nargs="?",
        type=int,
        const=0,
        help="samples one after the other up to so many tokens, instead of padded rows; by default as "
        "many as a batch of the longest would have",
    )
    group.add_argument("--length-grouping", action="store_true", help="batches of samples of like lengths")


def _add_robot(group: Any) -> None:
    group.add_argument(
        "--camera-map",
        metavar="NAME=CAMERA",
        action="append",
        default=[],
        help="a camera of the data and what the policy calls it; NAME= leaves one out, =CAMERA masks one",
    )
    group.add_argument(
        "--statistics",
        choices=("checkpoint", "data", "none"),
        default="checkpoint",
        help="what normalises states and actions: the checkpoint's (default), the data's, saved with it, or "
        "nothing",
    )
    group.add_argument(
        "--padding",
        choices=("auto", "learn", "skip"),
        default="auto",
        help="columns behind the robot's and steps past an episode's end: as the layout's own trainer "
        "(default), learned, or skipped",
    )
    group.add_argument("--tokenizer", metavar="PATH", help="a folder with PaliGemma's, if CKPT has none")


def _add_parts(group: Any) -> None:
    group.add_argument(
        "--tune",
        metavar="PARTS",
        default="all",
        help="projector, language, vision, all (default), lora, or parts by their names; several: "
        "--tune projector,vision, --tune lora,projector",
    )
    group.add_argument("--lora-rank", metavar="R", type=int, default=16, help="of --tune lora, default 16")
    group.add_argument("--lora-alpha", metavar="A", type=int, help="W + A/R B A; twice the rank by default")
    group.add_argument("--lora-dropout", metavar="P", type=float, default=0.0, help="default 0")
    group.add_argument(
        "--lora-targets",
        metavar="NAME",
        action="append",
        default=[],
        help="a linear layer or a pattern of them; all in the decoder's blocks by default; may be repeated",
    )
    group.add_argument(
        "--merge", action="store_true", help="at the end write the whole model too, with the adapter in it"
    )
    group.add_argument(
        "--part-lr",
        metavar="PART=RATE",
        action="append",
        default=[],
        help="a learning rate of its own for a part; may be repeated",
    )
    group.add_argument(
        "--dtype",
        default="float32",
        metavar="DTYPE",
        help="of the parameters: float32 (default; --bf16 computes in bfloat16 on them), bfloat16, stored",
    )
    group.add_argument("--output-dir", metavar="DIR", help="the folder of the run")
    group.add_argument(
        "--save-for",
        metavar="READER",
        help="the program that is to open the saves, e.g. transformers==4.57, as convert --for has it",
    )
    group.add_argument(
        "--resume",
        metavar="SAVE",
        nargs="?",
        const=True,
        default=False,
        help="go on from the newest save of the run, or from the one that is named",
    )
    group.add_argument(
        "--throughput-log-steps", metavar="N", type=int, default=0, help="log the speed every N steps"
    )


def run(options: argparse.Namespace) -> int:
    """Trains, or says what training would do."""
    chosen = [name for name in _MODES if getattr(options, name)]
    if len(chosen) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise UsageError(f"{names} are two things", hint="give one of them")
    if options.inspect_data:
        return _inspect_data(options)
    recipe = recipe_of(options)
    if options.inspect_weights:
        return _inspect_weights(recipe, options)
    if options.dry_run:
        return _dry_run(recipe, options)
    return _train(recipe, options)


def recipe_of(options: argparse.Namespace) -> "Recipe":
    """The recipe of a command.

    Raises:
        UsageError: a value is none of its kind.
    """
    from dovetail.train.recipe import Recipe

    is_looking = any(getattr(options, name) for name in _MODES)
    if options.output_dir is None and not is_looking:
        raise UsageError("nothing says where the run goes", hint="give --output-dir DIR")
    arguments: dict[str, Any] = {}
    if options.more:
        from dovetail.train.arguments import given_arguments

        arguments = given_arguments(options.more)
    return Recipe(
        output_dir=options.output_dir or "",
        data=options.data,
        model=options.model,
        backbone=options.backbone,
        init_from_backbone=options.init_from_backbone,
        vision_tower=options.vision_tower,
        projector=options.projector,
        target=options.target,
        settings=assignments(options.given),
        variant=options.variant,
        force=options.force,
        trust=options.trust,
        val_data=options.val_data,
        eval_max_batches=options.eval_max_batches,
        image_root=options.image_root,
        max_samples=options.max_samples,
        max_length=options.max_length,
        packing=options.packing is not None,
        pack_tokens=options.packing or None,
        length_grouping=options.length_grouping,
        learn=options.learn,
        on_error=options.on_error,
        tune=[word.strip() for word in options.tune.split(",") if word.strip()],
        rates=dict(map(_rate, options.part_lr)),
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        lora_targets=options.lora_targets,
        merge=options.merge,
        dtype=options.dtype,
        save_for=options.save_for,
        throughput_log_steps=options.throughput_log_steps,
        camera_map=options.camera_map,
        statistics=options.statistics,
        padding=options.padding,
        tokenizer=options.tokenizer,
        arguments=arguments,
    )


def _rate(text: str) -> tuple[str, float]:
    part, equals, value = text.partition("=")
    try:
        if part and equals and float(value) >= 0:
            return part, float(value)
    except ValueError:
        pass
    raise UsageError(f"`--part-lr {text}` is not PART=RATE", hint="for example --part-lr vision=2e-6")


def _inspect_data(options: argparse.Namespace) -> int:
    """What `dovetail data` says."""
    from importlib import import_module

    if options.data is None:
        raise UsageError("--inspect-data wants --data", hint="give --data MANIFEST")
    words = [options.data]
    if options.image_root is not None:
        words += ["--image-root", options.image_root]
    if options.json:
        words.append("--json")
    from dovetail.data.episodes import is_episodes

    if is_episodes(options.data) and options.model is not None:
        words += ["--policy", options.model]
    parser = Parser("data", "what `dovetail data` says", "dovetail data MANIFEST")
    data = import_module("dovetail.cli.data")
    data.configure(parser)
    code: int = data.run(parser.parse_args(words))
    return code


def _inspect_weights(recipe: "Recipe", options: argparse.Namespace) -> int:
    """The account of a model that is put together, or what a whole one is."""
    from dovetail.cli.output import print_json
    from dovetail.render.graft_page import graft_page
    from dovetail.render.page import inspect_page
    from dovetail.render.terminal import show
    from dovetail.train.planned import opened_model
    from dovetail.train.start import check_start, opened_assembly

    check_start(recipe)
    if not recipe.init_from_backbone:
        with opened_model(recipe) as found:
            print_json(found.report.as_json()) if options.json else show(inspect_page(found.report))
        return 0
    with opened_assembly(recipe) as graft:
        if options.json:
            print_json(graft.as_json())
        else:
            show(graft_page(graft, f"{options.output_dir or 'OUTPUT-DIR'}/start"))
        return 1 if graft.problems else 0


def _dry_run(recipe: "Recipe", options: argparse.Namespace) -> int:
    """The plan alone."""
    from dovetail.cli.output import print_json
    from dovetail.render.terminal import show
    from dovetail.train.plan_page import train_page
    from dovetail.train.planned import planned

    plan = planned(recipe)
    print_json(plan.as_json()) if options.json else show(train_page(plan))
    return 0


def _train(recipe: "Recipe", options: argparse.Namespace) -> int:
    """The training itself; with --json its pages go to stderr and its result to stdout.

    Of several processes (`torchrun`) the first one talks. They end at once when all is done: torch's threads
    sometimes abort a process that ends in the usual way after training with gloo.
    """
    import os
    import sys

    from dovetail.cli.output import StageBar, command_line, print_json
    from dovetail.render.page import Line, Page
    from dovetail.render.terminal import show
    from dovetail.train.train import run as carry_out

    is_first = os.environ.get("RANK", "0") == "0"
    stream = sys.stderr if options.json else sys.stdout

    def tell(page: Page) -> None:
        if is_first:
            show(page, stream)

    with StageBar("looking at samples") as bar:
        command = command_line(sys.argv[1:])
        done = carry_out(
            recipe, resume=options.resume, show=tell, progress=bar if is_first else None, command=command
        )
    if is_first and options.json:
        print_json(done.as_json())
    elif is_first:
        tell([Line(""), Line(f"trained {done.steps} steps; the last save is {done.path}", "good")])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
