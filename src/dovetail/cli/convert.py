"""`dovetail convert CKPT OUT --for READER`, or `--to LAYOUT`."""

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
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--for",
        dest="reader",
        metavar="READER",
        help="the program that is to open it, such as transformers==4.57, vllm, litgpt, lerobot, openpi, "
        "llava, timm: layout, container and configs follow",
    )
    parser.add_argument("--to", metavar="LAYOUT", help="a layout of the family; its own by default")
    parser.add_argument(
        "--format", metavar="FORMAT", help="safetensors or pth, instead of what the layout's tools expect"
    )
    add_shard_option(parser)
    parser.add_argument(
        "--dtype",
        metavar="[PATTERN=]DTYPE",
        action="append",
        default=[],
        help="change the dtype, of names like `*norm*` or a part only if given; rounding is counted",
    )
    parser.add_argument(
        "--without", metavar="PART", action="append", default=[], help="leave a part out; may be repeated"
    )
    parser.add_argument(
        "--pad-vocab", metavar="N", type=int, default=1, help="fill the token rows up to a multiple of N"
    )
    add_source_options(parser)
    add_writing_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the checkpoint, or prints what would be written."""
    from dovetail.edit.conversion import Conversion
    from dovetail.edit.convert import conversion_plan

    asked = Conversion(
        to=options.to,
        format=options.format,
        max_shard_size=parse_size(options.max_shard_size),
        dtypes=options.dtype,
        without=options.without,
        pad_vocab=options.pad_vocab,
        allow=options.allow,
        reader=options.reader,
    )
    with source_of(options.checkpoint, options) as source:
        return carry_out(conversion_plan(source, asked), options)
