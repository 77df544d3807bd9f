"""The checkpoint of a verb that runs one: that of the command, or one that comes with the package."""

import argparse

from dovetail.cli.inspect import CHECKPOINT

SHAPES, PATHS = "a tiny model that sees coloured shapes", "a tiny policy that draws lines to coloured shapes"


def add_checkpoint(parser: argparse.ArgumentParser, included: str = SHAPES) -> None:
    """Adds a checkpoint that may be left out."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs="?",
        help=f"{CHECKPOINT}; without one: {included} (in the package)",
    )


def checkpoint_of(options: argparse.Namespace, included: str = SHAPES) -> str:
    """The checkpoint that was given; otherwise that of the package, which is said."""
    if options.checkpoint is not None:
        return str(options.checkpoint)
    from dovetail import included as package
    from dovetail.cli.output import say

    say(f"note: no checkpoint is given: {included} runs, and knows nothing else")
    return {SHAPES: package.SHAPES, PATHS: package.PATHS}[included]
