"""`dovetail merge DIR OUT`."""

import argparse

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
    parser.add_argument("directory", metavar="DIR", help="what `dovetail split` wrote, or LitGPT chunks")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--to", metavar="LAYOUT", help="a layout; the one that was split by default")
    parser.add_argument("--format", metavar="FORMAT", help="safetensors or pth")
    add_shard_option(parser)
    add_source_options(parser)
    add_writing_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the model, or prints what would be written."""
    from dovetail.edit.conversion import Conversion
    from dovetail.edit.merge import merge_plan

    asked = Conversion(
        to=options.to,
        format=options.format,
        max_shard_size=parse_size(options.max_shard_size),
        allow=options.allow,
    )
    with source_of(options.directory, options) as source:
        return carry_out(merge_plan(source, asked), options)
