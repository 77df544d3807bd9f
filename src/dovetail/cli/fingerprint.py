"""`dovetail fingerprint CKPT`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.writing import add_reading_options, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    add_reading_options(parser)
    parser.add_argument("--json", action="store_true", help="the fingerprint and what it was made of as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the fingerprint alone, so that a script can compare it."""
    from shlex import quote

    from dovetail.cli.output import ProgressBar, print_json, say
    from dovetail.compare.fingerprint import identify

    with ProgressBar("hashing") as progress:
        found = identify(
            options.checkpoint,
            as_=options.as_,
            set=assignments(options.given),
            trust=options.trust,
            progress=progress,
        )
    if options.json:
        print_json(found.as_json())
    else:
        print(found.fingerprint)
    if found.certified not in (None, found.fingerprint):
        say(f"note: the certificate beside the weights has another fingerprint, {found.certified}")
        say(f"hint: `dovetail validate --values {quote(found.path)}` names what changed")
    return 0
