"""A plan as an HTML page, before anything is written."""

from collections.abc import Mapping
from typing import Any

from dovetail.render.html_elements import Html, element, name, prose
from dovetail.render.html_page import Foot, Section, framed, verdict, write_pages
from dovetail.render.html_words import blocks
from dovetail.render.page import Line, Page


def write_plan(page: Page, values: Mapping[str, Any], directory: str, *, command: str) -> list[str]:
    """Writes plan.json and plan.html into a folder; gives both paths.

    Raises:
        WriteError: the folder or a file in it cannot be written.
    """
    return write_pages({"plan.json": dict(values), "plan.html": plan_html(page, command=command)}, directory)


def plan_html(page: Page, *, command: str, date: str | None = None) -> str:
    """The page of a dry run: what it says on a terminal, with the verdict above."""
    lines = [one for one in page if isinstance(one, Line)]
    title = next(one.text for one in lines if one.style == "title")
    where = next((one.text for one in lines if one.style == "dim"), "")
    errors = [one.text for one in lines if one.style == "error"]
    warnings = [one.text for one in lines if one.style == "warning"]
    said = errors or warnings or [one.text for one in lines if one.style == "note"]
    word = "does not fit" if errors else "would be written"
    kind = "not-whole" if errors else "unknown" if warnings else "whole"
    first = said[0] if said else "every tensor has its place, and nothing is lost"
    top = element(
        "header",
        element("h1", title),
        element("p", name(where), class_="path"),
        verdict(word, kind, *map(_said, (first, *said[1:4]))),
    )
    rest = [
        one
        for one in page
        if not (isinstance(one, Line) and one.style == "title") and one != Line(where, "dim")
    ]
    sections = [Section("plan", "Plan", "What would be written", blocks(rest))]
    return framed(f"{title}: {word} - dovetail plan", top, sections, Foot(command, "plan.json", date=date))


def _said(text: str) -> Html:
    """A line without the severity that the verdict has said."""
    return prose(text.removeprefix("error: "))
