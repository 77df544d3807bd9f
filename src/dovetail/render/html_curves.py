"""The curves of a run as one HTML page that needs nothing else: an SVG for each panel, and the numbers.

Lines of one panel differ by their strokes and have their names beside them, so that they are told apart
without colour; a point says its step and value when pointed at.
"""

from collections.abc import Mapping, Sequence
from math import log10

from dovetail.render.curves import Line, Panel, decades, number, ticks
from dovetail.render.html_elements import Column, Group, Html, definitions, element, join, name, table
from dovetail.render.html_page import Foot, Section, framed, verdict

_WIDTH, _HEIGHT = 860, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 24, 14, 44
_STROKES = ("", "7 4", "2 3", "10 3 2 3", "4 2", "1 2")
# Of so many points each has a place of its own that says its value.
_POINTED = 120


def curves_html(
    title: str,
    panels: Sequence[Panel],
    *,
    state: tuple[str, str],
    said: Mapping[str, str],
    foot: Foot,
) -> str:
    """The page: `state` is a word and the sentence behind it, `said` what the run is."""
    word, sentence = state
    kind = "whole" if word == "finished" else "unknown"
    header = element(
        "header",
        element("h1", title),
        verdict(word, kind, sentence),
        definitions(
            [(key, name(value) if "/" in value else value) for key, value in said.items()], "identity"
        ),
    )
    sections = [
        Section(f"panel-{i}", panel.title, panel.title, panel_html(panel))
        for i, panel in enumerate(panels, 1)
    ]
    sections.append(Section("numbers", "Numbers", "The curves in numbers", _numbers(panels)))
    return framed(f"{title} - dovetail train", header, sections, foot)


def panel_html(panel: Panel) -> Html:
    """One drawing, its legend where there are several lines, and where values are not finite."""
    scale = _Scale(panel)
    lines = [_line(line, i, scale) for i, line in enumerate(panel.lines)]
    label = f"{panel.title} from step {number(panel.steps[0])} to {number(panel.steps[1])}"
    picture = element(
        "svg",
        element("title", label),
        *scale.axes(),
        *lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=label,
    )
    return element(
        "figure",
        element("div", picture, class_="scroll"),
        _legend(panel),
        *(_lost(line) for line in panel.lines if line.lost),
        class_="depth curve",
    )


class _Scale:
    """Where a step and a value are in the drawing."""

    def __init__(self, panel: Panel) -> None:
        values = panel.values or [0.0, 1.0]
        self._first, self._last = panel.steps
        self._is_log = panel.is_logarithmic
        self._marks = (decades if self._is_log else ticks)(min(values), max(values))

    def x(self, step: float) -> float:
        """Pixels from the left."""
        span = (self._last - self._first) or 1
        return round(_LEFT + (step - self._first) / span * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high, here = self._marks[0], self._marks[-1], value
        if self._is_log:
            low, high, here = log10(low), log10(high), log10(value)
        return round(_TOP + (high - here) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self) -> list[Html]:
        """Both axes with their marks."""
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        drawn = []
        for mark in self._marks:
            y = str(self.y(mark))
            drawn.append(element("line", x1=str(_LEFT), x2=str(right), y1=y, y2=y, class_="grid"))
            text = number(mark)
            place = str(self.y(mark) + 4)
            drawn.append(element("text", text, x=str(_LEFT - 8), y=place, text_anchor="end"))
        for step in self._steps():
            x = str(self.x(step))
            drawn.append(element("line", x1=x, x2=x, y1=str(bottom), y2=str(bottom + 5), class_="tick"))
            drawn.append(element("text", number(step), x=x, y=str(bottom + 18), text_anchor="middle"))
        middle = str((_LEFT + right) / 2)
        words = "step, on a logarithmic scale of values" if self._is_log else "step"
        drawn.append(element("text", words, x=middle, y=str(bottom + 36), text_anchor="middle"))
        return drawn

    def _steps(self) -> list[float]:
        """Whole steps, inside."""
        if self._first == self._last:
            return [self._first]
        marks = ticks(self._first, self._last, 8)
        return [one for one in marks if self._first <= one <= self._last and one == int(one)]


def _line(line: Line, i: int, scale: _Scale) -> Html:
    """A line, drawn thin below its running mean where it has one; a lone point is a dot."""
    stroke = _STROKES[i % len(_STROKES)] or None
    if len(line.points) == 1:
        (step, value) = line.points[0]
        words = element("title", f"{line.name} {number(value)} at step {number(step)}")
        dot = element("circle", words, cx=str(scale.x(step)), cy=str(scale.y(value)), r="4")
        return element("g", dot, class_=f"line line-{i % len(_STROKES)} point")
    smooth = line.smooth
    pieces = [_path(line, scale, stroke, "raw" if smooth else "main")]
    if smooth is not None:
        pieces.append(_path(smooth, scale, stroke, "main"))
    if len(line.points) <= _POINTED:
        pieces += [
            element(
                "circle",
                element("title", f"{line.name} {number(value)} at step {number(step)}"),
                cx=str(scale.x(step)),
                cy=str(scale.y(value)),
                r="7",
                class_="spot",
            )
            for step, value in line.points
        ]
    return element("g", *pieces, class_=f"line line-{i % len(_STROKES)}")


def _path(line: Line, scale: _Scale, stroke: str | None, kind: str) -> Html:
    places = " ".join(f"{scale.x(step)},{scale.y(value)}" for step, value in line.drawn)
    return element("polyline", points=places, class_=kind, stroke_dasharray=stroke)


def _legend(panel: Panel) -> Html:
    """The names of the lines beside their strokes."""
    if len(panel.lines) == 1 and panel.lines[0].smooth is None:
        return Html("")
    entries = []
    for i, line in enumerate(panel.lines):
        stroke = _STROKES[i % len(_STROKES)] or None
        sample = element("line", x1="0", x2="24", y1="6", y2="6", class_="main", stroke_dasharray=stroke)
        group = element("g", sample, class_=f"line line-{i % len(_STROKES)}")
        picture = element("svg", group, class_="sample", viewBox="0 0 24 12", aria_hidden="true")
        words = f"{line.name}, thin, and its running mean" if line.smooth else line.name
        entries.append(element("li", picture, words))
    return element("ul", *entries, class_="legend")


def _lost(line: Line) -> Html:
    steps = ", ".join(f"{step}" for step in line.lost[:10])
    more = f" and {len(line.lost) - 10} more" if len(line.lost) > 10 else ""
    return element("p", f"{line.name} is NaN or infinite at step {steps}{more}", class_="said error")


def _numbers(panels: Sequence[Panel]) -> Html:
    """First, last, least and largest value of every line."""
    columns = (
        Column("", "name"),
        *(Column(word, "number") for word in ("first", "last", "least", "at step", "largest", "at step")),
    )
    groups = [Group(panel.title, [_row(line) for line in panel.lines]) for panel in panels]
    return element("div", table(columns, groups, is_wide=True), class_="scroll")


def _row(line: Line) -> tuple[str, ...]:
    if not line.points:
        return (join([line.name]), *["none"] * 6)
    least = min(line.points, key=lambda point: point[1])
    largest = max(line.points, key=lambda point: point[1])
    ends = (line.points[0][1], line.points[-1][1], least[1], least[0], largest[1], largest[0])
    return (line.name, *map(number, ends))
