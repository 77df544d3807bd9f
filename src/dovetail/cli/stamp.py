"""`dovetail stamp CKPT`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.writing import add_source_options, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument("--out", metavar="DIR", help="write there instead of beside the checkpoint")
    parser.add_argument(
        "--no-values", action="store_true", help="read headers only: no hashes, no fingerprint"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an older stamp or a config says otherwise"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written; read headers only")
    add_source_options(parser)
    parser.add_argument("--json", action="store_true", help="what was written and what is open as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the stamp and says what is in it."""
    from dovetail.cli.output import ProgressBar, print_json
    from dovetail.edit.stamp import stamp

    with ProgressBar("hashing") as progress:
        found = stamp(
            options.checkpoint,
            set=assignments(options.given),
            trust=options.trust,
            out=options.out,
            values=not options.no_values,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
            as_=options.as_,
            allow=options.allow,
            progress=progress,
        )
    if options.json:
        print_json(found.as_json())
    else:
        from dovetail.render.stamp_page import stamp_page
        from dovetail.render.terminal import show

        show(stamp_page(found))
    return 0
