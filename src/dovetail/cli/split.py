"""`dovetail split CKPT OUT --nodes N`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.sizes import parse_size
from dovetail.cli.writing import add_source_options, add_writing_options, assignments, carry_out


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
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="cut safetensors files at this size (5GB)"
    )
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
    from dovetail.checkpoint import opened
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
    with opened(
        options.checkpoint,
        as_=options.as_,
        allow=options.allow,
        given=assignments(options.given),
        trust=options.trust,
        to_be="changed",
    ) as source:
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
