"""The errors of a policy's actions as a page of the terminal, and as an HTML page."""

import os

from dovetail.errors import printable
from dovetail.render.html_elements import element, name
from dovetail.render.html_page import Foot, Section, framed, page_place, verdict, write_pages
from dovetail.render.html_words import blocks
from dovetail.render.page import Line, Page, Table
from dovetail.train.evaluate_policy import ActionError, PolicyEvaluation

_COLUMNS = ("action", ">mean error", ">first step", ">root mean square", ">largest")


def policy_page(found: PolicyEvaluation) -> Page:
    """What was asked, the error of each number of the actions, and what was assumed."""
    title = f"{found.checkpoint}: {found.family}/{found.layout} in {found.dtype}"
    return [
        Line(title, "title"),
        Line(f"{found.data}: {_part(found)}, {found.seconds:.1f} s", "dim"),
        Line(""),
        error_table(found),
        Line(""),
        *(Line(one, "dim") for one in found.notes),
        Line(""),
        Line(_sentence(found)),
    ]


def error_table(found: PolicyEvaluation) -> Table:
    """A row for each number of the actions, in the robot's units."""
    rows = tuple((printable(key), *_cells(one)) for key, one in found.dimensions.items())
    return Table(_COLUMNS, rows, ("all", *_cells(found.total)))


def write_policy_page(found: PolicyEvaluation, place: str, *, command: str) -> list[str]:
    """Writes the page and the evaluation as JSON; `place` is a folder or the page itself.

    Raises:
        WriteError: they cannot be written.
    """
    folder, file, data = page_place(place, "evaluate.html")
    title = os.path.basename(found.checkpoint.rstrip("/"))
    top = element(
        "header",
        element("h1", f"How far the actions of {title} are off"),
        element("p", name(found.checkpoint), class_="path"),
        verdict(f"{found.total.mean:.4g}", "unknown", _sentence(found)),
    )
    notes = blocks([Line(f"{found.data}: {_part(found)}"), *(Line(one) for one in found.notes)])
    sections = [
        Section("errors", "Errors", "By number of the action", blocks([error_table(found)])),
        Section("notes", "Assumed", "What was asked and assumed", notes),
    ]
    page = framed(f"{title} - dovetail evaluate", top, sections, Foot(command, data))
    return write_pages({data: found.as_json(), file: page}, folder)


def _part(found: PolicyEvaluation) -> str:
    part = f"the first {found.samples:,} of {found.of:,}" if found.samples < found.of else f"all {found.of:,}"
    return f"{part} frames, {found.horizon} steps from each"


def _sentence(found: PolicyEvaluation) -> str:
    total = found.total
    return f"mean error {total.mean:.4g} over {total.count:,} numbers, {total.first:.4g} at the first step"


def _cells(one: ActionError) -> tuple[str, ...]:
    return tuple(f"{value:.4g}" for value in (one.mean, one.first, one.rms, one.largest))
