"""`dovetail ls CKPT [GLOB]`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.writing import add_reading_options, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument(
        "pattern",
        metavar="GLOB",
        nargs="?",
        default="*",
        help="only these, by their name in the file or their canonical one; * stands for anything",
    )
    parser.add_argument("--all", action="store_true", help="a line for each, layers not folded")
    parser.add_argument(
        "--stats",
        action="store_true",
        help="read the values: min, max, mean, std, and how many are zero, NaN, infinite",
    )
    parser.add_argument(
        "--save", metavar="NAME.npy", help="write one tensor for numpy (bfloat16 and 8-bit floats as float32)"
    )
    add_reading_options(parser)
    parser.add_argument("--json", action="store_true", help="a list of the tensors, each by itself")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the tensors."""
    from dovetail.tensor_list import ls

    rows = ls(
        options.checkpoint,
        options.pattern,
        stats=options.stats,
        save=options.save,
        as_=options.as_,
        set=assignments(options.given),
        trust=options.trust,
    )
    if options.json:
        from dovetail.cli.output import print_json

        print_json([row.as_json() for row in rows])
    else:
        from dovetail.render.tensor_page import tensor_page
        from dovetail.render.terminal import show

        show(tensor_page(rows, folded=not options.all))
    if options.save:
        from dovetail.cli.output import say

        say(f"wrote {options.save}")
    return 0
