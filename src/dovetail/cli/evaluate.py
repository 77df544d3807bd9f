"""`dovetail evaluate CKPT --data MANIFEST`, or the folder of a robot's episodes for a policy."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dovetail.cli.output import command_line
from dovetail.cli.writing import add_reading_options, assignments

if TYPE_CHECKING:
    from dovetail.render.page import Page
    from dovetail.train.evaluate_policy import PolicyEvaluation
    from dovetail.train.evaluation import Evaluation


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs="?",
        help="a checkpoint with its tokenizer; with --checkpoint-dir best (default), last or a name in it",
    )
    parser.add_argument(
        "--checkpoint-dir", metavar="DIR", help="the folder of a run, in which CKPT is chosen"
    )
    parser.add_argument(
        "--data",
        metavar="MANIFEST",
        required=True,
        help="questions with their true answers; a robot's episodes for a policy",
    )
    parser.add_argument(
        "--image-root", metavar="DIR", help="what image names are relative to (default: beside the manifest)"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="ask the first N samples only")
    parser.add_argument("--batch", metavar="N", type=int, default=8, help="samples at once (default 8)")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do with a sample that cannot be asked: stop (default), or leave it out and list it",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="what random:N of a yaml list draws, and a policy's noise (default 0)",
    )
    parser.add_argument(
        "--camera-map",
        metavar="NAME=CAMERA",
        action="append",
        default=[],
        help="which camera of the data is which of the policy; NAME= leaves one out, =CAMERA masks one",
    )
    parser.add_argument(
        "--statistics", metavar="FILE", help="of a policy: a norm_stats.json instead of what CKPT has"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, …")
    parser.add_argument("--dtype", metavar="DTYPE", help="bfloat16, float16, float32; as stored by default")
    add_reading_options(parser)
    parser.add_argument(
        "--html", metavar="OUT", help="write a page of the wrong answers with their images, and evaluate.json"
    )
    parser.add_argument("--json", action="store_true", help="the counts and every wrong answer as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints how well a checkpoint answers."""
    from dovetail.cli.output import prepare_folder, print_json
    from dovetail.data.episodes import is_episodes

    checkpoint = _checkpoint(options)
    if options.html and not options.html.endswith(".html"):
        prepare_folder(options.html)  # before what may take a while
    is_policy = is_episodes(options.data)
    found, page = (_of_policy if is_policy else _of_answers)(checkpoint, options)
    if options.json:
        print_json(found.as_json())
    else:
        from dovetail.render.terminal import show

        show(page)
    return 0


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "limit": options.limit,
        "batch": options.batch,
        "device": options.device,
        "dtype": options.dtype,
        "set": assignments(options.given),
        "as_": options.as_,
        "trust": options.trust,
    }


def _of_answers(checkpoint: str, options: argparse.Namespace) -> tuple["Evaluation", "Page"]:
    """How well a model answers, and the page that says it.

    Raises:
        UsageError: an option is about policies.
    """
    from dovetail.cli.output import StageBar
    from dovetail.errors import UsageError
    from dovetail.train.evaluate import evaluate
    from dovetail.train.evaluation_cards import write_cards
    from dovetail.train.evaluation_page import evaluation_page

    if options.camera_map or options.statistics:
        raise UsageError(
            "--camera-map and --statistics are about a robot's episodes", hint="give their folder as --data"
        )
    with StageBar("samples") as progress:
        found = evaluate(
            checkpoint,
            options.data,
            image_root=options.image_root,
            on_error=options.on_error,
            progress=progress,
            **_common(options),
        )
    if options.html:
        _say_written(write_cards(found, options.html, command=command_line(sys.argv[1:])))
    return found, evaluation_page(found)


def _of_policy(checkpoint: str, options: argparse.Namespace) -> tuple["PolicyEvaluation", "Page"]:
    """How far the actions of a policy are off, and the page that says it."""
    from dovetail.cli.output import StageBar
    from dovetail.data.policy_batches import camera_map
    from dovetail.train.evaluate_policy import evaluate_policy
    from dovetail.train.policy_page import policy_page, write_policy_page

    with StageBar("frames") as progress:
        found = evaluate_policy(
            checkpoint,
            options.data,
            cameras=camera_map(options.camera_map),
            statistics=options.statistics,
            progress=progress,
            **_common(options),
        )
    if options.html:
        _say_written(write_policy_page(found, options.html, command=command_line(sys.argv[1:])))
    return found, policy_page(found)


def _checkpoint(options: argparse.Namespace) -> str:
    """The checkpoint that is meant.

    Raises:
        UsageError: nothing says which.
    """
    from dovetail.errors import UsageError

    if options.checkpoint_dir is not None:
        from dovetail.cli.output import say
        from dovetail.train.named_save import named_save

        name = options.checkpoint or "best"
        found = named_save(options.checkpoint_dir, name)
        say(f"{name}: {found}")
        return found
    if options.checkpoint is None:
        raise UsageError(
            "nothing says which checkpoint to evaluate", hint="give its path, or --checkpoint-dir DIR"
        )
    return str(options.checkpoint)


def _say_written(paths: Sequence[str]) -> None:
    from dovetail.cli.output import say

    say(f"wrote {' and '.join(paths)}")
