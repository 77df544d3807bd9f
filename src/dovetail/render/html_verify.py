"""A verification as one HTML page, with the distance from the reference drawn over the depth.

The drawing is one SVG for each pass: the relative norm of the difference on a logarithmic scale, stage
after stage, isolated as dots and in the chain as a line, with the tolerance as a dashed one. It is as wide
as its stages need, and scrolls where the page is narrower.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from dovetail.render.html_elements import Column, Group, Html, definitions, element, escape, join, name, table
from dovetail.render.html_page import Foot, Section, framed, verdict, write_pages
from dovetail.render.verify_page import module_row, row

Values = Mapping[str, Any]
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 76, 20, 14, 62
_WIDTH, _STEP = 860, 14
_LEAST = 1e-8
# The room that the name of a stage takes below the axis.
_LABEL = 190
_BAD = "alone bad"


def write_verification(values: Values, directory: str, *, command: str = "") -> list[str]:
    """Writes verify.json and verify.html into a folder; gives both paths.

    Raises:
        WriteError: the folder or a file in it cannot be written.
    """
    page = verify_html(values, command=command)
    return write_pages({"verify.json": values, "verify.html": page}, directory)


def verify_html(values: Values, *, command: str = "", date: str | None = None) -> str:
    """The page."""
    state = "good" if values["first_divergent"] is None else "not good"
    what = f"{values['candidate']} on {values['backend']} in {values['dtype']}"
    passes = dict.fromkeys(stage["pass"] for stage in values["stages"])
    sections = [
        Section(f"pass-{i}", one, one, _pass(one, [s for s in values["stages"] if s["pass"] == one], values))
        for i, one in enumerate(passes, 1)
    ]
    seconds = sum(stage.get("seconds", 0) for stage in values["stages"])
    rows = [("report schema", str(values["schema"])), ("time", f"{seconds:.1f} s in the stages")]
    again = command or f"dovetail verify {values['reference']} --backend {values['backend']}"
    foot = Foot(again, "verify.json", rows, date)
    return framed(f"{what}: {state} - dovetail verify", _top(what, state, values), sections, foot)


def _top(what: str, state: str, values: Values) -> Html:
    """The title, the verdict and what was held against what."""
    first, stages = values["first_divergent"], values["stages"]
    said = f"all {len(stages)} stages are as the reference has them"
    if first is not None:
        bad = sum(stage["verdict"] != "good" for stage in stages)
        said = f"{bad} of {len(stages)} stages; the first is {first['stage']} ({first['pass']})"
    tolerance = values["tolerance"]
    rows: list[tuple[str, str]] = [
        ("candidate", name(values["candidate"])),
        ("backend", f"{values['backend']} in {values['dtype']}"),
        ("reference", join([name(values["reference"]), ", torch eager in float32"])),
        (
            "an isolated stage is good",
            f"with PCC >= {tolerance['pcc']:.6f} and relative norm <= {tolerance['relative_norm']:.0e}",
        ),
    ]
    if values["note"]:
        rows.append(("note", values["note"]))
    kind = "whole" if first is None else "not-whole"
    return element("header", element("h1", what), verdict(state, kind, said), definitions(rows, "identity"))


def _pass(title: str, stages: Sequence[Values], values: Values) -> Html:
    columns = (
        Column("stage", "name"),
        Column("shape"),
        *(Column(head, "number") for head in ("PCC", "max abs", "rel. norm", "chain PCC", "chain rel.")),
        Column("verdict"),
    )
    rows = []
    for stage in stages:
        stage_name, *rest, word = row(stage)
        said = escape(word) if stage["verdict"] == "good" else element("strong", word, class_="bad")
        rows.append([name(stage_name), *map(escape, rest), said])
    wide = table(columns, [Group(None, rows)], is_wide=True)
    return join(
        (
            drawing(title, stages, values["tolerance"]["relative_norm"]),
            _modules(title, [one for one in values["modules"] if one["pass"] == title]),
            scroll(wide, f"stages of {title}"),
        )
    )


def _modules(title: str, modules: Sequence[Values]) -> Html:
    """The stages of a pass by module."""
    heads = ("stages", "least PCC", "max abs", "rel. norm", "chain rel.")
    columns = (Column("module"), *(Column(head, "number") for head in heads), Column("verdict"))
    rows = []
    for module in modules:
        *rest, word = map(escape, module_row(module))
        rows.append([*rest, word if not module["not_good"] else element("strong", word, class_="bad")])
    return scroll(table(columns, [Group(None, rows)], is_wide=True), f"modules of {title}")


def scroll(content: Html, label: str) -> Html:
    """What is scrolled sideways where it does not fit, with a shadow where there is more."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def drawing(title: str, stages: Sequence[Values], tolerance: float) -> Html:
    """The relative norm of every stage over the depth."""
    alone = [_norm(stage["isolated"]) for stage in stages]
    chain = [_norm(stage["chained"]) for stage in stages]
    known = [value for value in (*alone, *chain, tolerance) if value is not None]
    low, high = floor(log10(min(known))), floor(log10(max(known))) + 1
    width = max(_WIDTH, _LEFT + _RIGHT + _STEP * (len(stages) - 1))
    step = (width - _LEFT - _RIGHT) / max(1, len(stages) - 1)

    def x(i: int) -> float:
        return _LEFT + i * step

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - log10(value)) / (high - low)

    lines = [_mark(power, y(10.0**power), width) for power in range(low, high + 1)]
    lines.append(_line("limit", [(_LEFT, y(tolerance)), (width - _RIGHT, y(tolerance))]))
    points = [(x(i), y(value)) for i, value in enumerate(chain) if value is not None]
    lines.append(_line("chain", points))
    for i, (value, stage) in enumerate(zip(alone, stages, strict=True)):
        if value is not None:
            kind = "alone" if stage["verdict"] == "good" else _BAD
            dot = element("title", escape(f"{stage['stage']}: {value:.1e}"))
            lines.append(element("circle", dot, cx=f"{x(i):.1f}", cy=f"{y(value):.1f}", r="4", class_=kind))
    lines += _labels(stages, step)
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f"translate(14 {middle:.0f}) rotate(-90)"
    lines.append(element("text", "relative norm of the difference", transform=turned, text_anchor="middle"))
    below = "stage, in the order of the computation"
    lines.append(element("text", below, x=f"{width / 2:.0f}", y=str(_HEIGHT - 6), text_anchor="middle"))
    drawn = element(
        "svg",
        *lines,
        viewBox=f"0 0 {width} {_HEIGHT}",
        style=f"min-width:{width}px",
        role="img",
        aria_label=f"relative norm of the difference over the stages of {title}",
    )
    has_bad = any(stage["verdict"] != "good" for stage in stages)
    return element(
        "figure", scroll(drawn, f"drawing of {title}"), _legend(None in alone, has_bad), class_="depth"
    )


def _labels(stages: Sequence[Values], step: float) -> list[Html]:
    """The names of as many stages as have room below the axis, each with a tick."""
    every = max(1, -(-_LABEL // max(1, int(step))))
    last = len(stages) - 1
    chosen = [i for i in range(0, len(stages), every) if last - i >= every or i == last]
    marks = []
    for i in (*chosen, *([last] if last not in chosen else [])):
        place, top = _LEFT + i * step, _HEIGHT - _BOTTOM
        anchor = "start" if i == 0 else "end" if i == last else "middle"
        tick = element(
            "line", x1=f"{place:.1f}", x2=f"{place:.1f}", y1=str(top), y2=str(top + 5), class_="tick"
        )
        text = element("text", stages[i]["stage"], x=f"{place:.1f}", y=str(top + 20), text_anchor=anchor)
        marks += [tick, text]
    return marks


def _legend(has_gaps: bool, has_bad: bool) -> Html:
    """What the marks mean, each beside a sample of it."""
    samples = [
        (
            element("circle", cx="12", cy="6", r="4", class_="alone"),
            "isolated: fed what the reference is fed",
        ),
        (_line("chain", [(0, 6), (24, 6)]), "in the chain: fed what the stages before it gave"),
        (_line("limit", [(0, 6), (24, 6)]), "the tolerance of an isolated stage"),
    ]
    if has_bad:
        samples.insert(1, (element("circle", cx="12", cy="6", r="4", class_=_BAD), "isolated and not good"))
    keys = [
        element("li", element("svg", sample, viewBox="0 0 24 12", class_="sample", aria_hidden="true"), text)
        for sample, text in samples
    ]
    if has_gaps:
        keys.append(element("li", "no dot: equal, or not run"))
    return element("ul", *keys, class_="legend")


def _norm(distance: Values | None) -> float | None:
    """Where a distance is drawn; one of 0 has no place on a scale of powers."""
    value = distance.get("relative_norm") if distance else None
    return max(value, _LEAST) if value else None


def _mark(power: int, y: float, width: int) -> Html:
    line = element("line", x1=str(_LEFT), x2=str(width - _RIGHT), y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
    label = element("text", f"1e{power}", x=str(_LEFT - 8), y=f"{y + 4:.1f}", text_anchor="end")
    return join([line, label])


def _line(kind: str, points: Sequence[tuple[float, float]]) -> Html:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=path, class_=kind)
