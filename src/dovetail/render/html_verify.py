"""A verification as one HTML page, with the distance from the reference drawn over the depth.

The drawing is one SVG for each pass: the relative norm of the difference on a logarithmic scale, stage
after stage, isolated as dots and in the chain as a line, with the tolerance as a dashed one.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from dovetail.render.html import html_page, write_pages
from dovetail.render.html_elements import Column, Group, Html, definitions, element, escape, join, name, table
from dovetail.render.verify_page import row

Values = Mapping[str, Any]
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 900, 260, 56, 14, 34
_LEAST = 1e-8


def write_verification(values: Values, directory: str) -> list[str]:
    """Writes verify.json and verify.html into a folder; gives both paths.

    Raises:
        WriteError: the folder or a file in it cannot be written.
    """
    return write_pages({"verify.json": values, "verify.html": verify_html(values)}, directory)


def verify_html(values: Values) -> str:
    """The page."""
    first = values["first_divergent"]
    is_good = first is None
    said = (
        f"All {len(values['stages'])} stages are as the reference has them."
        if is_good
        else f"The first divergent stage is {first['stage']} ({first['pass']})."
    )
    verdict = element(
        "div",
        element("p", element("strong", "Good" if is_good else "Not good"), escape(said)),
        class_=f"verdict {'whole' if is_good else 'not-whole'}",
    )
    tolerance = values["tolerance"]
    facts = definitions(
        (
            ("candidate", name(values["candidate"])),
            ("backend", escape(f"{values['backend']} in {values['dtype']}")),
            ("reference", join([name(values["reference"]), ", torch eager in float32"])),
            (
                "isolated stages pass",
                escape(f"PCC >= {tolerance['pcc']:.6f}, relative norm <= {tolerance['relative_norm']:.0e}"),
            ),
            *((("note", escape(values["note"])),) if values["note"] else ()),
        ),
        "identity",
    )
    passes = dict.fromkeys(stage["pass"] for stage in values["stages"])
    sections = [_pass(one, [s for s in values["stages"] if s["pass"] == one], tolerance) for one in passes]
    head = element("header", element("h1", "Stage by stage"), verdict, facts)
    body = element("body", element("p", "dovetail", class_="brand"), element("main", head, *sections))
    return html_page("verify: dovetail report", body)


def _pass(title: str, stages: Sequence[Values], tolerance: Values) -> Html:
    columns = (
        Column("stage", "name"),
        Column("shape"),
        *(Column(head, "number") for head in ("PCC", "max abs", "rel. norm", "chain PCC", "chain rel.")),
        Column("verdict"),
    )
    rows = []
    for stage in stages:
        stage_name, *rest, verdict = row(stage)
        is_good = stage["verdict"] == "good"
        rows.append(
            [name(stage_name), *map(escape, rest), verdict if is_good else element("strong", verdict)]
        )
    return element(
        "section",
        element("h2", escape(title)),
        drawing(title, stages, tolerance["relative_norm"]),
        table(columns, [Group(None, rows)], class_="parts"),
    )


def drawing(title: str, stages: Sequence[Values], tolerance: float) -> Html:
    """The relative norm of every stage over the depth."""
    alone = [_norm(stage["isolated"]) for stage in stages]
    chain = [_norm(stage["chained"]) for stage in stages]
    known = [value for value in (*alone, *chain, tolerance) if value is not None]
    low, high = floor(log10(min(known))), floor(log10(max(known))) + 1
    step = (_WIDTH - _LEFT - 12) / max(1, len(stages) - 1)

    def x(i: int) -> float:
        return _LEFT + i * step

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - log10(value)) / (high - low)

    lines = [_mark(power, y(10.0**power)) for power in range(low, high + 1)]
    lines.append(_line("limit", [(_LEFT, y(tolerance)), (_WIDTH - 12, y(tolerance))]))
    points = [(x(i), y(value)) for i, value in enumerate(chain) if value is not None]
    lines.append(_line("chain", points))
    for i, (value, stage) in enumerate(zip(alone, stages, strict=True)):
        if value is not None:
            kind = "alone" if stage["verdict"] == "good" else "alone bad"
            dot = element("title", escape(f"{stage['stage']}: {value:.1e}"))
            lines.append(element("circle", dot, cx=f"{x(i):.1f}", cy=f"{y(value):.1f}", r="4", class_=kind))
    ends = [(0, "start", stages[0]["stage"]), (len(stages) - 1, "end", stages[-1]["stage"])]
    for i, anchor, text in ends[: 1 if len(stages) == 1 else 2]:
        lines.append(element("text", escape(text), x=f"{x(i):.1f}", y=str(_HEIGHT - 10), text_anchor=anchor))
    drawn = element(
        "svg",
        *lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"relative norm of the difference over the stages of {title}",
    )
    keys = element(
        "ul",
        element("li", "dots: isolated"),
        element("li", "line: in the chain"),
        element("li", "dashed: the tolerance of an isolated stage"),
        *([element("li", "no dot: equal, or not run")] if None in alone else []),
        class_="legend",
    )
    return element(
        "figure", drawn, element("figcaption", "relative norm of the difference"), keys, class_="depth"
    )


def _norm(distance: Values | None) -> float | None:
    """Where a distance is drawn; one of 0 has no place on a scale of powers."""
    value = distance.get("relative_norm") if distance else None
    return max(value, _LEAST) if value else None


def _mark(power: int, y: float) -> Html:
    line = element("line", x1=str(_LEFT), x2=str(_WIDTH - 12), y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
    label = element("text", f"1e{power}", x=str(_LEFT - 8), y=f"{y + 4:.1f}", text_anchor="end")
    return join([line, label])


def _line(kind: str, points: Sequence[tuple[float, float]]) -> Html:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=path, class_=kind)
