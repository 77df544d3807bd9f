"""The checkpoint of a verb that runs one: that of the command, or the one that comes with the package."""

import argparse

from dovetail.cli.inspect import CHECKPOINT


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds a checkpoint that may be left out."""
    without = "without one: the tiny model that comes with dovetail and sees coloured shapes"
    parser.add_argument("checkpoint", metavar="CKPT", nargs="?", help=f"{CHECKPOINT}; {without}")


def checkpoint_of(options: argparse.Namespace) -> str:
    """The checkpoint that was given; otherwise that of the package, which is said."""
    if options.checkpoint is not None:
        return str(options.checkpoint)
    from dovetail.cli.output import say
    from dovetail.included import SHAPES

    say("note: no checkpoint is given: the tiny model of the package runs, which knows coloured shapes only")
    return SHAPES
