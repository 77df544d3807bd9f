"""`dovetail graft SRC [SRC…] OUT --config TARGET`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.sizes import parse_size
from dovetail.cli.writing import (
    add_shard_option,
    add_trust_option,
    add_writing_options,
    assignments,
    carry_out,
    foretell,
    show_plan,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("donors", metavar="SRC", nargs="+", help=f"donors, the first one first: {CHECKPOINT}")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--config",
        metavar="TARGET",
        required=True,
        help="the model to make: a config.json or a folder with one (hf://… too), FAMILY/SIZE, or FAMILY, "
        "whose sizes are then those of the donors",
    )
    parser.add_argument(
        "--set",
        dest="given",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a size or setting that the config does not say; may be repeated",
    )
    parser.add_argument(
        "--only", metavar="PART", action="append", default=[], help="parts that donors fill; all by default"
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="make position tables of images fit (bicubic)"
    )
    parser.add_argument("--resize-vocab", metavar="N", type=int, help="cut or fill the token rows to N")
    parser.add_argument("--seed", type=int, default=0, help="seed of what no donor has (default 0)")
    parser.add_argument("--to", metavar="LAYOUT", help="the first layout of the family by default")
    parser.add_argument("--format", metavar="FORMAT", help="safetensors or pth")
    add_shard_option(parser)
    parser.add_argument(
        "--dtype", metavar="[PATTERN=]DTYPE", action="append", default=[], help="as in convert"
    )
    parser.add_argument(
        "--allow", metavar="NAME", action="append", default=[], help="let a damaged tensor of a donor pass"
    )
    add_trust_option(parser)
    add_writing_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the account of both sides; writes the model unless something does not fit."""
    from dovetail.edit.conversion import Conversion
    from dovetail.edit.graft import Filling, checked, opened_graft
    from dovetail.render.graft_page import graft_page
    from dovetail.render.page import Line
    from dovetail.render.plan_page import needs
    from dovetail.render.terminal import show

    filling = Filling(
        only=options.only,
        interpolate=options.interpolate,
        resize_vocab=options.resize_vocab,
        seed=options.seed,
    )
    asked = Conversion(
        to=options.to,
        format=options.format,
        max_shard_size=parse_size(options.max_shard_size),
        dtypes=options.dtype,
        allow=options.allow,
    )
    with opened_graft(
        options.donors,
        options.config,
        filling=filling,
        asked=asked,
        given=assignments(options.given),
        trust=options.trust,
    ) as graft:
        if options.dry_run:
            end = [] if graft.problems else [Line(""), needs(graft.plan)]
            show_plan([*graft_page(graft, options.out), *end], graft.as_json(), options)
            if not graft.problems:
                foretell(graft.plan, options)
            return 1 if graft.problems else 0
        plan = checked(graft)
        if not options.json:
            show(graft_page(graft, options.out))
        return carry_out(plan, options)
