"""`dovetail split CKPT OUT --nodes N`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.sizes import parse_size
from dovetail.cli.writing import (
    add_shard_option,
    add_source_options,
    add_writing_options,
    carry_out,
    source_of,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument("out", metavar="OUT", help="the folder to write: one folder in it for each node")
    parser.add_argument("--nodes", metavar="N", type=int, help="how many nodes, balanced by bytes")
    parser.add_argument("--layers", metavar="A,B,…", help="how many layers each node has, e.g. 12,16")
    parser.add_argument(
        "--to",
        metavar="LAYOUT",
        help="a layout of the family; the litgpt ones write chunks/<N>nodes_finisher",
    )
    parser.add_argument(
        "--format", metavar="FORMAT", help="safetensors or pth (litgpt chunks are always pth)"
    )
    add_shard_option(parser)
    parser.add_argument(
        "--dtype",
        metavar="[PATTERN=]DTYPE",
        action="append",
        default=[],
        help="change the dtype, as in convert",
    )
    add_source_options(parser)
    add_writing_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the nodes, or prints what would be written."""
    from dovetail.edit.conversion import Conversion
    from dovetail.edit.split import split_plan

    layers = parse_layers(options.layers) if options.layers else None
    asked = Conversion(
        to=options.to,
        format=options.format,
        max_shard_size=parse_size(options.max_shard_size),
        dtypes=options.dtype,
        allow=options.allow,
    )
    with source_of(options.checkpoint, options) as source:
        plan = split_plan(source, asked, nodes=options.nodes, layers=layers)
        return carry_out(plan, options)


def parse_layers(text: str) -> list[int]:
    """The numbers of `12,16`.

    Raises:
        UsageError: it is something else.
    """
    from dovetail.errors import UsageError

    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise UsageError(f"`--layers {text}` is not a list of numbers", hint="for example --layers 12,16")
    return [int(number) for number in numbers]
