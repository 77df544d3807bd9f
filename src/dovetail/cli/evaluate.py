"""`dovetail evaluate CKPT --data MANIFEST`."""

import argparse
import sys
from typing import TYPE_CHECKING

from dovetail.cli.writing import add_reading_options, assignments

if TYPE_CHECKING:
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
    parser.add_argument("--data", metavar="MANIFEST", required=True, help="questions with their true answers")
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
    parser.add_argument("--seed", type=int, default=0, help="what random:N of a yaml list draws (default 0)")
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
    from dovetail.cli.output import StageBar, prepare_folder, print_json
    from dovetail.train.evaluate import evaluate

    checkpoint = _checkpoint(options)
    if options.html and not options.html.endswith(".html"):
        prepare_folder(options.html)  # before what may take a while
    with StageBar("samples") as progress:
        found = evaluate(
            checkpoint,
            options.data,
            image_root=options.image_root,
            seed=options.seed,
            limit=options.limit,
            batch=options.batch,
            on_error=options.on_error,
            device=options.device,
            dtype=options.dtype,
            set=assignments(options.given),
            as_=options.as_,
            trust=options.trust,
            progress=progress,
        )
    if options.html:
        _write_page(found, options.html)
    if options.json:
        print_json(found.as_json())
    else:
        from dovetail.render.terminal import show
        from dovetail.train.evaluation_page import evaluation_page

        show(evaluation_page(found))
    return 0


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


def _write_page(found: "Evaluation", place: str) -> None:
    from dovetail.cli.output import command_line, say
    from dovetail.train.evaluation_cards import write_cards

    paths = write_cards(found, place, command=command_line(sys.argv[1:]))
    say(f"wrote {' and '.join(paths)}")
