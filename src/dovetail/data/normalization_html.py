"""The normalisation report as an HTML page: a small drawing for each dimension.

Bars are the data; the band is the range that the checkpoint normalises with, or three deviations to either
side of its mean; the line in it is its middle.
"""

import os

from dovetail.data.distribution import center_of
from dovetail.data.normalization import SHOWN, Dimension, NormalizationReport
from dovetail.data.normalization_page import normalised, number, shown, verdict_line
from dovetail.render.html_elements import (
    Column,
    Group,
    Html,
    definitions,
    element,
    escape,
    name,
    table,
)
from dovetail.render.html_findings import in_order
from dovetail.render.html_page import Foot, Section, framed, page_place, verdict, write_pages
from dovetail.report import counted

_WIDTH, _HEIGHT = 220.0, 44.0


def write_normalization(report: NormalizationReport, place: str, *, command: str) -> list[str]:
    """Writes normalization.html and .json into a folder, or the page that is named; gives the paths.

    Raises:
        WriteError: they cannot be written.
    """
    folder, file, data = page_place(place, "normalization.html")
    page = normalization_html(report, command=command, data=data)
    return write_pages({data: report.as_json(), file: page}, folder)


def normalization_html(
    report: NormalizationReport, *, command: str, data: str = "normalization.json", date: str | None = None
) -> str:
    """The page."""
    called = os.path.basename(report.source.rstrip("/"))
    said = verdict_line(report).text
    word, _, rest = said.partition(": ")
    rows: list[tuple[str, str]] = [
        ("data", f"{report.form}, {counted(report.episodes, 'episode')}, {counted(report.frames, 'frame')}"),
        ("checkpoint", name(report.checkpoint)),
        ("statistics", report.statistics or "none"),
    ]
    top = element(
        "header",
        element("h1", f"{called} beside {os.path.basename(report.checkpoint.rstrip('/'))}"),
        verdict(word, "whole" if report.is_good else "not-whole", escape(rest)),
        definitions(rows, "identity"),
    )
    sections = [Section("findings", "Findings", "Findings", in_order(report.findings))]
    for kind, title in (("state", "State"), ("actions", "Actions")):
        of = [one for one in report.dimensions if one.kind == kind]
        sections.append(Section(kind, title, title, _dimensions(of)))
    foot = Foot(command, data, [("report schema", "1")], date)
    return framed(f"{called}: {word} - dovetail data --policy", top, sections, foot)


def _dimensions(dimensions: list[Dimension]) -> Html:
    columns = (
        Column("dimension"),
        Column("data, and the checkpoint's band"),
        Column("verdict"),
        Column("of"),
        *(Column(one, "number") for one in SHOWN),
        Column("normalised", "number"),
    )
    rows: list[list[str]] = []
    for one in dimensions:
        label = f"{one.number} {one.name}".strip()
        rows.append([label, drawing(one), one.verdict, "data", *shown(one.data), normalised(one)])
        if one.checkpoint:
            rows.append(["", "", "", "checkpoint", *shown(one.checkpoint), ""])
    return (
        element("div", table(columns, [Group(None, rows)], is_wide=True), class_="scroll")
        if rows
        else Html("")
    )


def drawing(one: Dimension) -> Html:
    """The histogram of the data over the band of the checkpoint, as one SVG."""
    band = one.band
    ends: list[float] = [one.data["min"], one.data["max"], *(band or ())]
    low: float = min(ends)
    high: float = max(ends)
    reach = (high - low) or 1.0

    def place(value: float) -> float:
        return 2.0 + (_WIDTH - 4) * (value - low) / reach

    shapes: list[Html] = []
    if band:
        left, right = place(band[0]), place(band[1])
        shapes.append(_rect(left, 1.0, max(right - left, 1.0), _HEIGHT - 2, opacity="0.14"))
        middle = place(center_of(one.checkpoint))
        shapes.append(_rect(middle - 0.75, 1.0, 1.5, _HEIGHT - 2, opacity="0.5"))
    most = max((count for _, _, count in one.histogram), default=1)
    for start, end, count in one.histogram:
        tall = (_HEIGHT - 6) * count / most
        if count:
            wide = max(place(end) - place(start), 1.0)
            shapes.append(_rect(place(start), _HEIGHT - 2 - tall, wide, max(tall, 1.0), opacity="0.75"))
    said = f"data from {number(one.data['min'])} to {number(one.data['max'])}"
    if band:
        said += f"; the checkpoint's band from {number(band[0])} to {number(band[1])}"
    return element(
        "svg",
        element("title", said),
        *shapes,
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        width=f"{_WIDTH:.0f}",
        height=f"{_HEIGHT:.0f}",
        role="img",
    )


def _rect(x: float, y: float, wide: float, tall: float, *, opacity: str) -> Html:
    sizes = {"x": x, "y": y, "width": wide, "height": tall}
    return element(
        "rect",
        **{key: f"{value:.2f}" for key, value in sizes.items()},
        fill="currentColor",
        fill_opacity=opacity,
    )
