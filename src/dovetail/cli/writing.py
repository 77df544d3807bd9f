"""What the verbs that write have in common: their options, the plan they print, the bar and the end."""

import argparse
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dovetail.errors import UsageError

if TYPE_CHECKING:
    from dovetail.checkpoint import Checkpoint
    from dovetail.edit.plan import Plan
    from dovetail.render.page import Page


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Options about what a source is."""
    parser.add_argument("--as", dest="as_", metavar="FAMILY[/LAYOUT]", help="what the source must be")
    parser.add_argument(
        "--set",
        dest="given",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="say what no file says, e.g. text.kv_heads=2; may be repeated",
    )
    add_trust_option(parser)


def add_size_option(parser: argparse.ArgumentParser) -> None:
    """The option that demands an architecture."""
    parser.add_argument(
        "--size",
        metavar="SIZE",
        help="which published size of its family it must be, e.g. 2b",
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """The option that settles contradictions."""
    parser.add_argument(
        "--trust",
        metavar="SIDE",
        help="which side counts where they contradict each other: weights, config or stamp",
    )


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Options about what is read, damage included."""
    add_reading_options(parser)
    parser.add_argument(
        "--allow",
        metavar="NAME",
        action="append",
        default=[],
        help="let a damaged tensor pass, by name or pattern; the result carries a tag",
    )


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """Options about how it is written."""
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    parser.add_argument(
        "--report", metavar="DIR", help="with --dry-run: write plan.json and a self-contained plan.html there"
    )
    parser.add_argument("--json", action="store_true", help="the plan (with --dry-run) or the result as JSON")
    parser.add_argument("--resume", action="store_true", help="go on with what a run left that did not end")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT once the result is complete")
    parser.add_argument(
        "--no-sync",
        dest="sync",
        action="store_false",
        help="do not wait for the disk, as cp does not; a power cut soon after may damage OUT",
    )


def add_shard_option(parser: argparse.ArgumentParser) -> None:
    """The option that says how large a file may become."""
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="cut safetensors files at this size (5GB)"
    )


def source_of(path: str, options: argparse.Namespace) -> AbstractContextManager["Checkpoint"]:
    """The checkpoint that is to be changed, opened with what the options say of it.

    Raises:
        UsageError: there is none, or an option is none of its values.
        CheckpointError: it is damaged, or no family claims it.
    """
    from dovetail.checkpoint import opened

    return opened(
        path,
        as_=options.as_,
        allow=options.allow,
        given=assignments(options.given),
        trust=options.trust,
        to_be="changed",
    )


def assignments(texts: Iterable[str]) -> dict[str, Any]:
    """The values of repeated `--set NAME=VALUE`.

    Raises:
        UsageError: one is none.
    """
    if not (texts := list(texts)):
        return {}
    from dovetail.cli.sizes import assignment

    return dict(assignment(text) for text in texts)


def carry_out(plan: "Plan", options: argparse.Namespace) -> int:
    """Prints a plan, or follows it and prints what was written."""
    from dovetail.cli.output import ProgressBar, print_json

    if options.dry_run:
        from dovetail.render.plan_page import plan_page

        show_plan(plan_page(plan, options.out), plan.as_json(), options)
        foretell(plan, options)
        return 0
    if options.report:
        raise UsageError(
            "--report is about a plan", hint="give --dry-run too; `validate --report` is about a result"
        )
    from dovetail.edit.write.destination import check_place
    from dovetail.edit.write.execute import Writing, execute
    from dovetail.render.page import quantity

    check_place(options.out, plan.stores, overwrite=options.overwrite)
    print(
        f"writing {quantity(plan.size, 'B')} with at most {plan.memory >> 20} MiB of memory", file=sys.stderr
    )
    with ProgressBar("writing") as progress:
        done = execute(
            plan,
            options.out,
            Writing(options.overwrite, options.resume, options.sync),
            progress,
        )
    if options.json:
        print_json(done.as_json())
    else:
        from dovetail.render.plan_page import done_page
        from dovetail.render.terminal import show

        show(done_page(plan, done, is_resumed=options.resume))
    return 0


def show_plan(page: "Page", values: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Prints a plan, and writes it as a page if that is asked for."""
    from dovetail.cli.output import command_line, print_json, say
    from dovetail.render.terminal import show

    if options.report:
        from dovetail.render.html_plan import write_plan

        command = command_line(sys.argv[1:])
        say(f"wrote {' and '.join(write_plan(page, values, options.report, command=command))}")
    if options.json:
        print_json(values)
    else:
        show(page)


def foretell(plan: "Plan", options: argparse.Namespace) -> None:
    """Says after a dry run whether the run itself would stop at where it is to write."""
    from dovetail.edit.write.destination import check_place
    from dovetail.edit.write.journal import NAME
    from dovetail.store.write.partial import check_nothing_left, partial_of

    try:
        check_place(options.out, plan.stores, overwrite=options.overwrite)
        if not options.resume:
            check_nothing_left(partial_of(options.out), journal=NAME)
    except UsageError as error:
        print(f"\nwithout --dry-run this stops: {error}", file=sys.stderr)
