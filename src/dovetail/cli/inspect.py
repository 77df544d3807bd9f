"""`dovetail inspect CKPT`."""

import argparse

from dovetail.cli.writing import add_reading_options, add_size_option, assignments

CHECKPOINT = "a folder, a .safetensors/.pth/.pt/.bin/.ckpt file, an index or header listing, http(s)://… or hf://owner/name[@revision]"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    add_reading_options(parser)
    add_size_option(parser)
    parser.add_argument(
        "--memory", action="store_true", help="what it takes to run: weights by dtype, KV cache"
    )
    parser.add_argument("--context", metavar="N", type=int, help="with --memory: tokens a sequence (4096)")
    parser.add_argument("--batch", metavar="N", type=int, help="with --memory: sequences at once (1)")
    parser.add_argument(
        "--nodes", metavar="N", type=int, help="with --memory: as `split --nodes N` deals it out"
    )
    parser.add_argument(
        "--json", action="store_true", help="the report as JSON (schema in docs/reference/report.md)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what the checkpoint is; 1 if it is not whole."""
    from dovetail.verbs import inspect

    given = assignments(options.given)
    asked = {name: getattr(options, name) for name in ("context", "batch", "nodes")}
    asked = {name: number for name, number in asked.items() if number is not None}
    report = inspect(
        options.checkpoint,
        as_=options.as_,
        set=given,
        size=options.size,
        trust=options.trust,
        memory=options.memory or bool(asked),
        **asked,
    )
    if options.json:
        from dovetail.cli.output import print_json

        print_json(report.as_json())
    else:
        from dovetail.render.page import inspect_page
        from dovetail.render.terminal import show

        show(inspect_page(report))
    return 0 if report.is_whole else 1
