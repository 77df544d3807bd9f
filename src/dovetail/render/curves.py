"""Curves over the steps of a run: what both the page and the picture draw.

A panel holds lines that share an axis. Numbers that are not finite are in no line; where they stand is said
in words, because a loss that becomes NaN must not look like one that ends.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

Point = tuple[float, float]
# More points than this are drawn as the least and the largest of each stretch of them.
_MOST = 600
# A scale that a line leaves by more than this factor is logarithmic.
_DECADES = 60.0
# A line of more points than this is drawn with its running mean, if it goes up and down so much that all its
# ways together are as many times as long as the whole line is high.
_SMOOTHED, _ROUGH = 60, 4.0


class Line(NamedTuple):
    """One line: step and value, by steps; `lost` are the steps whose value is NaN or infinite."""

    name: str
    points: tuple[Point, ...]
    lost: tuple[int, ...] = ()

    @property
    def drawn(self) -> tuple[Point, ...]:
        """The points, or the least and the largest of each stretch where they are too many to see."""
        if len(self.points) <= _MOST:
            return self.points
        size = math.ceil(2 * len(self.points) / _MOST)
        stretches = (self.points[start : start + size] for start in range(0, len(self.points), size))
        ends = ({min(one, key=_value), max(one, key=_value)} for one in stretches)
        return tuple(point for one in ends for point in sorted(one))

    @property
    def smooth(self) -> "Line | None":
        """The mean of a twentieth of the line around each point, None where it is short or not rough."""
        values = [value for _, value in self.points]
        if len(values) <= _SMOOTHED:
            return None
        ways = sum(abs(after - before) for before, after in pairwise(values))
        if ways <= _ROUGH * (max(values) - min(values)):
            return None
        return self._replace(points=tuple(_means(self.points, max(len(values) // 40, 3))))


class Panel(NamedTuple):
    """Lines on one axis, which is never logarithmic if it `is_straight`: a schedule has its own shape."""

    title: str
    lines: tuple[Line, ...]
    is_straight: bool = False

    @property
    def values(self) -> list[float]:
        """Every value."""
        return [value for line in self.lines for _, value in line.points]

    @property
    def is_logarithmic(self) -> bool:
        """Whether the values spread so far that a straight axis would show the largest alone."""
        values = self.values
        is_wide = bool(values) and min(values) > 0 and max(values) > _DECADES * min(values)
        return is_wide and not self.is_straight

    @property
    def steps(self) -> tuple[float, float]:
        """The first and the last step."""
        steps = [step for line in self.lines for step, _ in line.points]
        return min(steps, default=0), max(steps, default=1)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from below `low` to above `high`.

    >>> ticks(0.13, 2.4)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(part * power for part in (1, 2, 2.5, 5, 10) if part * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from below `low` to above `high`.

    >>> decades(0.02, 3)
    [0.01, 0.1, 1.0, 10.0]
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [float(f"1e{i}") for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """A value in the width of a label.

    >>> [number(one) for one in (0.0, 0.25, 2e-05, 1234.5, 3.0, 5_200_000)]
    ['0', '0.25', '2e-05', '1,234', '3', '5.2e+06']
    """
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _value(point: Point) -> float:
    return point[1]


def _means(points: Sequence[Point], reach: int) -> Iterator[Point]:
    """The mean of a point and as many on each side as there are, at most `reach`."""
    sums = list(accumulate((value for _, value in points), initial=0.0))
    for i, (step, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        yield step, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)
