"""`dovetail data MANIFEST [--check] [--samples N] [--html OUT]`, `--labels --model CKPT`, `--policy CKPT`."""

import argparse
import sys
from typing import TYPE_CHECKING

from dovetail.cli.data_labels import add_label_options, asked_labeller, labels_of

if TYPE_CHECKING:
    from dovetail.data.certificate import LabelCertificate
    from dovetail.data.inspected import DataReport

ON_TERMINAL, ON_PAGE = 3, 24  # samples that are shown


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_manifest_options(parser)
    parser.add_argument("--check", action="store_true", help="decode every image: missing and broken ones")
    parser.add_argument(
        "--samples",
        metavar="N",
        type=int,
        help=f"how many of the first samples to show (default {ON_TERMINAL}, on an HTML page {ON_PAGE})",
    )
    parser.add_argument(
        "--html",
        metavar="OUT",
        help="write a page of samples with their images, and data.json, into a folder",
    )
    parser.add_argument(
        "--policy", metavar="CKPT", help="hold a robot's episodes against the statistics of this policy"
    )
    parser.add_argument(
        "--statistics", metavar="FILE", help="with --policy: a norm_stats.json instead of what CKPT has"
    )
    add_label_options(parser)
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.set_defaults(run=run)


def add_manifest_options(parser: argparse.ArgumentParser) -> None:
    """Adds what opens a manifest."""
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="a .json, .jsonl or .yaml file, {a,b}.json, .tar shards, or a folder that `datasets` saved; "
        "of a robot, a data set of lerobot or a folder of .npz episodes",
    )
    parser.add_argument(
        "--image-root", metavar="DIR", help="what image names are relative to (default: beside the manifest)"
    )
    parser.add_argument("--seed", type=int, default=0, help="what random:N of a yaml list draws (default 0)")


def run(options: argparse.Namespace) -> int:
    """Prints what is in a manifest; 1 if a sample cannot be used, or a robot's numbers are not the policy's.

    Raises:
        UsageError: episodes of a robot are given without a policy.
    """
    from dovetail.cli.output import print_json
    from dovetail.data.episodes import is_episodes

    if options.policy is not None:
        from dovetail.cli.data_policy import run_policy

        return run_policy(options)
    if is_episodes(options.manifest):
        from dovetail.errors import UsageError

        raise UsageError(
            "the folder holds a robot's episodes, which are looked at beside a policy",
            folder=options.manifest,
            hint="dovetail data FOLDER --policy CKPT",
        )
    labeller = asked_labeller(options)
    report = _report(options)
    shown = ON_TERMINAL if options.samples is None else options.samples
    labels = None
    if labeller is not None:
        labels = labels_of(labeller, report.manifest, max_length=options.max_length, shown=shown)
    if options.html:
        _write_page(report, labels, options.html)
    if options.json:
        print_json(report.as_json() | ({"labels": labels.as_json()} if labels else {}))
    else:
        from dovetail.data.data_page import data_page
        from dovetail.data.labels_page import labels_page
        from dovetail.render.page import Line
        from dovetail.render.terminal import show

        page = data_page(report._replace(samples=report.samples[:shown]))
        show([*page, Line(""), *labels_page(labels)] if labels else page)
    return 0 if report.is_good and not (labels and labels.refused) else 1


def _report(options: argparse.Namespace) -> "DataReport":
    """The report that is asked for.

    Raises:
        UsageError: the number of samples is none.
    """
    from dovetail.cli.output import StageBar, prepare_folder
    from dovetail.data.inspected import inspect_data
    from dovetail.errors import UsageError

    samples = options.samples
    if samples is None:
        samples = ON_PAGE if options.html else ON_TERMINAL
    if samples < 0:
        raise UsageError(f"`--samples {samples}` is no number of samples", hint="give 0 or more")
    if options.html and not options.html.endswith(".html"):
        prepare_folder(options.html)  # before what may take a while
    with StageBar("samples") as progress:
        return inspect_data(
            options.manifest,
            image_root=options.image_root,
            seed=options.seed,
            check=options.check,
            samples=samples,
            progress=progress,
        )


def _write_page(report: "DataReport", labels: "LabelCertificate | None", place: str) -> None:
    from dovetail.cli.output import command_line, say
    from dovetail.data.cards_page import write_cards

    paths = write_cards(report, place, labels=labels, command=command_line(sys.argv[1:]))
    say(f"wrote {' and '.join(paths)}")
