"""Bars drawn to scale out of plain elements: each row starts where the one before it ends.

Every bar has its words and numbers beside it, and kinds differ by outline and hatching, so that the
drawing says the same in black and white, on paper, and read aloud.
"""

from collections.abc import Iterable, Sequence
from math import floor, log10
from typing import NamedTuple

from dovetail.render.html_elements import Html, element, escape


class Segment(NamedTuple):
    """One stretch of a bar; `kind` names its look in the stylesheet and its words in the legend."""

    kind: str
    size: float


class Bar(NamedTuple):
    """One row: who it is, where it starts, what it is made of, and how much that is in words."""

    label: str
    start: float
    segments: Sequence[Segment]
    amount: str
    notes: Sequence[str] = ()


class Scale(NamedTuple):
    """The length of the whole drawing and the distance between its marks."""

    total: float
    step: float

    @property
    def marks(self) -> list[float]:
        """Where the marks stand, from 0."""
        return [i * self.step for i in range(floor(self.total / self.step + 1e-9) + 1)]


def scale(total: float) -> Scale:
    """A scale with a few marks at round numbers, none of them between two whole ones.

    >>> scale(4_417_971_200).marks
    [0, 1000000000, 2000000000, 3000000000, 4000000000]
    """
    if total <= 0:
        return Scale(1, 1)
    power = 10 ** floor(log10(total))
    step = next(part for part in (2 * power, power, power / 2, power / 4, power / 5) if total / part >= 3)
    return Scale(total, int(step) if step >= 1 else 1)


def chart(
    bars: Iterable[Bar], to: Scale, marks: Sequence[str], legend: Iterable[tuple[str, str]] = ()
) -> Html:
    """The rows under their scale, and the legend of the kinds that occur."""
    rows = [_row(bar, to) for bar in bars]
    words = list(legend)
    keys = [
        element("li", element("i", class_=f"key {kind}", aria_hidden="true"), text) for kind, text in words
    ]
    below = element("ul", *keys, class_="legend") if keys else Html("")
    return element("figure", _axis(to, marks), element("ol", *rows, class_="bars"), below, class_="chart")


def _axis(to: Scale, marks: Sequence[str]) -> Html:
    labels = [
        element(
            "span", text, class_="last" if place > 0.94 * to.total else None, style=f"left:{_part(place, to)}"
        )
        for place, text in zip(to.marks, marks, strict=True)
    ]
    return element("div", element("div", *labels, class_="track"), class_="axis", aria_hidden="true")


def _row(bar: Bar, to: Scale) -> Html:
    # A bar that would be too thin to see is drawn a few pixels wide, and kept inside the track.
    pieces = [element("i", class_=one.kind, style=f"flex-grow:{_number(one.size)}") for one in bar.segments]
    room = 1 + 7 * len(pieces)
    length = sum(one.size for one in bar.segments)
    place = f"left:min({_part(bar.start, to)},100% - {room}px);width:{_part(length, to)}"
    drawn = [element("div", *pieces, class_="bar", style=place)] if pieces else []
    track = element("div", *drawn, class_="track", style=f"--step:{_part(to.step, to)}", aria_hidden="true")
    notes = [element("div", note, class_="remark") for note in bar.notes]
    label = element("div", escape(bar.label), *notes, class_="who")
    return element("li", label, track, element("div", bar.amount, class_="amount"))


def _part(size: float, to: Scale) -> str:
    return f"{_number(100 * size / to.total)}%"


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
