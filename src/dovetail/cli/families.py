"""`dovetail families`."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "--json", action="store_true", help="a list of {family, parts, layouts: [{id, writable, note}]}"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what is known."""
    from dovetail.verbs import families

    if options.json:
        from dovetail.cli.output import print_json

        print_json(families())
    else:
        from dovetail.render.page import families_page
        from dovetail.render.terminal import show

        show(families_page(families()))
    return 0
