"""`dovetail validate CKPT`."""

import argparse

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.writing import add_reading_options, add_size_option, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument(
        "--values", action="store_true", help="read all data: NaN, zeros, copies that differ, fresh-init look"
    )
    parser.add_argument(
        "--forward", action="store_true", help="run it once on made-up input, stage by stage (needs torch)"
    )
    add_reading_options(parser)
    add_size_option(parser)
    parser.add_argument(
        "--report", metavar="DIR", help="write report.json and a self-contained report.html there"
    )
    parser.add_argument(
        "--json", action="store_true", help="the report as JSON (schema in docs/reference/report.md)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what is wrong; 1 if anything is."""
    from dovetail.checkpoint import opened
    from dovetail.cli.output import ProgressBar, prepare_folder, print_json, say
    from dovetail.verbs import checked

    if options.report:
        prepare_folder(options.report)  # before what may take a while
    with (
        opened(
            options.checkpoint,
            as_=options.as_,
            given=assignments(options.given),
            size=options.size,
            trust=options.trust,
        ) as found,
        ProgressBar("reading values") as progress,
    ):
        report = checked(found, values=options.values, forward=options.forward, progress=progress)
    if options.report:
        from dovetail.render.html import write_report
        from dovetail.tensor_list import rows_of

        paths = write_report(report, options.report, tensors=[*rows_of(found)])
        say(f"wrote {' and '.join(paths)}")
    if options.json:
        print_json(report.as_json())
    else:
        from dovetail.render.page import validate_page
        from dovetail.render.terminal import show

        show(validate_page(report))
    was_run = not options.forward or report.forward is not None
    return 0 if report.is_whole and was_run else 1
