"""`dovetail make FAMILY OUT`."""

import argparse

from dovetail.cli.sizes import assignment, parse_size
from dovetail.cli.writing import add_shard_option


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("family", metavar="FAMILY", help="a family that `dovetail families` lists")
    parser.add_argument("out", metavar="OUT", help="the folder to write; it must not exist")
    parser.add_argument("--size", metavar="SIZE", help="a published size, e.g. 2b; the first one by default")
    parser.add_argument("--layout", metavar="LAYOUT", help="the first layout of the family by default")
    parser.add_argument(
        "--set",
        dest="given",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a size (text.layers=2), a kind (vision=siglip+pool) or a setting "
        "(text.rope_theta=1e6); may be repeated",
    )
    parser.add_argument(
        "--dtype", default="bfloat16", metavar="DTYPE", help="bfloat16 (default), float16, float32"
    )
    parser.add_argument(
        "--sparse", action="store_true", help="true headers and holes instead of data: full size, no disk"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default 0)")
    add_shard_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the checkpoint and says what it wrote."""
    from dovetail.edit.make import make
    from dovetail.errors import printable
    from dovetail.render.page import quantity

    made = make(
        options.family,
        options.out,
        size=options.size,
        layout=options.layout,
        set=dict(map(assignment, options.given)),
        dtype=options.dtype,
        sparse=options.sparse,
        seed=options.seed,
        max_shard_size=parse_size(options.max_shard_size),
    )
    numbers = f"{made.tensors} tensors, {quantity(made.parameters)} parameters, {quantity(made.bytes, 'B')}"
    kind = " (sparse: no data on the disk)" if options.sparse else ""
    print(printable(f"{made.path}: {numbers}{kind}"))
    for name in made.files:
        print(f"  {printable(name)}")
    return 0
