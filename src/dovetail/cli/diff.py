"""`dovetail diff A B`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.writing import add_reading_options, assignments
from dovetail.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("a", metavar="A", help=CHECKPOINT)
    parser.add_argument("b", metavar="B", help="the same, in any layout, container and number of files")
    parser.add_argument("--values", action="store_true", help="read all data and compare it too")
    parser.add_argument(
        "--tolerance",
        metavar="T",
        type=float,
        default=0.0,
        help="with --values: a tensor is close, not different, if the norm of the differences is at most T "
        "times its own (bfloat16 keeps about 0.002)",
    )
    add_reading_options(parser)
    parser.add_argument(
        "--report", metavar="DIR", help="write diff.json and a self-contained diff.html there"
    )
    parser.add_argument("--json", action="store_true", help="the differences as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what differs; 1 if anything does."""
    from dovetail.cli.output import ProgressBar, prepare_folder, print_json, say
    from dovetail.compare.diff import diff

    if not 0 <= options.tolerance < float("inf"):
        raise UsageError(f"--tolerance {options.tolerance} is no tolerance", hint="for example 0.002")
    if options.tolerance and not options.values:
        raise UsageError("--tolerance is about values", hint="give --values too")
    if options.report:
        prepare_folder(options.report)  # before what may take a while
    with ProgressBar("comparing") as progress:
        found = diff(
            options.a,
            options.b,
            values=options.values,
            tolerance=options.tolerance,
            as_=options.as_,
            set=assignments(options.given),
            trust=options.trust,
            progress=progress,
        )
    if options.report:
        from dovetail.render.html_diff import write_difference

        asked = f" --values --tolerance {options.tolerance:g}" if options.tolerance else " --values"
        paths = write_difference(found, options.report, options=asked if options.values else "")
        say(f"wrote {' and '.join(paths)}")
    if options.json:
        print_json(found.as_json())
    else:
        from dovetail.render.diff_page import diff_page
        from dovetail.render.terminal import show

        show(diff_page(found))
    return 0 if found.is_same else 1
