"""Pictures of one to three coloured shapes on a pale ground, drawn from a random generator.

Five pairs of six colours and five forms are held out: no scene holds one unless it is asked to. More colours
and forms, all of whose pairs are allowed, teach that any form comes in any colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

EDGE = 56  # of a picture, in pixels
COLORS = {
    "red": (215, 45, 45),
    "green": (45, 160, 65),
    "blue": (45, 85, 220),
    "yellow": (232, 205, 45),
    "purple": (140, 55, 175),
    "orange": (240, 135, 35),
}
MORE_COLORS = {
    "pink": (245, 150, 195),
    "brown": (115, 72, 40),
    "black": (30, 30, 32),
    "grey": (130, 132, 135),
    "cyan": (60, 190, 210),
}
FORMS = ("circle", "square", "triangle", "star", "cross")
MORE_FORMS = ("ring", "moon", "heart")
HELD_OUT = (
    ("purple", "square"),
    ("red", "star"),
    ("blue", "cross"),
    ("yellow", "triangle"),
    ("green", "circle"),
)
_RADII = (8, 9, 10, 11)
_ANGLES = tuple(range(-12, 13, 3))
_FINE = 4  # masks are drawn so many times larger and made small again
_JITTER = 18  # of each channel of a colour
_NOISE = 25  # at most, in half of the pictures
_ALIKE = 0.35  # of the scenes have a colour or a form twice for sure: else every count would be one
_APART = 4  # between centres, across and down: left and above are never in doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A shape: its colour and form by name, its centre and radius in pixels."""

    color: str
    form: str
    x: int
    y: int
    radius: int

    @property
    def pair(self) -> tuple[str, str]:
        """Colour and form."""
        return self.color, self.form


Scene = tuple[Shape, ...]
_NAMED = [(c, f) for c in COLORS for f in FORMS if (c, f) not in HELD_OUT]
_MORE = [(c, f) for c in MORE_COLORS for f in FORMS + MORE_FORMS]
_PAIRS = {
    "named": _NAMED,
    "more": _MORE,
    "all": [*_NAMED, *_MORE, *((c, f) for c in COLORS for f in MORE_FORMS)],
}


def drawn_scene(
    random: np.random.Generator, *, pairs: str = "named", is_held_out: bool = False, count: int | None = None
) -> Scene:
    """A scene of 1 to 3 shapes, or `count`, that touch neither each other nor the edge.

    `pairs` says which pairs of colour and form it draws from: `named`, the six colours and five forms but for
    five pairs; `more`, other colours in any form; or `all`. With `is_held_out` one of the shapes is of a pair
    that no other scene holds.
    """
    number = count or int(random.choice((1, 2, 3), p=(0.15, 0.4, 0.45)))
    known = _PAIRS[pairs]
    chosen = [known[i] for i in random.integers(len(known), size=number)]
    if number > 1 and random.random() < _ALIKE:
        axis, last = int(random.integers(2)), chosen[-1]
        like = [pair for pair in known if pair[axis] == last[axis]]
        chosen[0] = like[int(random.integers(len(like)))]
    if is_held_out:
        chosen[int(random.integers(number))] = HELD_OUT[int(random.integers(len(HELD_OUT)))]
    return placed(random, chosen)


def placed(random: np.random.Generator, pairs: Sequence[tuple[str, str]]) -> Scene:
    """Shapes of these pairs, where they fit."""
    while True:
        radii = random.choice(_RADII, size=len(pairs)).tolist()
        places: list[tuple[int, int]] = []
        for i, radius in enumerate(radii):
            for x, y in random.integers(radius + 1, EDGE - radius - 1, size=(12, 2)).tolist():
                if all(
                    min(abs(x - x2), abs(y - y2)) >= _APART
                    and math.hypot(x - x2, y - y2) > radius + radii[j] + 1
                    for j, (x2, y2) in enumerate(places)
                ):
                    places.append((x, y))
                    break
            if len(places) <= i:
                break
        else:
            return tuple(
                Shape(color=color, form=form, x=x, y=y, radius=radius)
                for (color, form), (x, y), radius in zip(pairs, places, radii, strict=True)
            )


def drawn(random: np.random.Generator, scene: Scene) -> np.ndarray:
    """The picture of a scene: uint8, EDGE x EDGE x 3. Each shape is turned and tinted a little."""
    picture = np.empty((EDGE, EDGE, 3), np.float32)
    picture[:] = random.integers(215, 251, size=3)
    for shape in scene:
        mask = _mask(shape.form, shape.radius, _ANGLES[int(random.integers(len(_ANGLES)))])
        color = {**COLORS, **MORE_COLORS}[shape.color] + random.integers(-_JITTER, _JITTER + 1, size=3)
        reach = mask.shape[0] // 2
        rows = slice(shape.y - reach, shape.y + reach + 1)
        columns = slice(shape.x - reach, shape.x + reach + 1)
        picture[rows, columns] += mask * (color.astype(np.float32) - picture[rows, columns])
    if random.random() < 0.5:
        amplitude = _NOISE * random.random()
        picture += amplitude * (2 * random.random(picture.shape, dtype=np.float32) - 1)
    return np.rint(picture.clip(0, 255)).astype(np.uint8)


@cache
def _mask(form: str, radius: int, angle: int) -> np.ndarray:
    """How much of each pixel a form covers: float32, edge x edge x 1, the edge odd."""
    edge = 2 * radius + 1
    large = Image.new("L", (edge * _FINE, edge * _FINE))
    pen, middle, reach = ImageDraw.Draw(large), edge * _FINE / 2, radius * _FINE
    for fill, outline in _pieces(form):
        if isinstance(outline, _Disc):
            x, y, size = (middle + reach * outline.x, middle + reach * outline.y, reach * outline.radius)
            pen.ellipse([x - size, y - size, x + size, y + size], fill)
        else:
            pen.polygon([(middle + reach * x, middle + reach * y) for x, y in outline], fill)
    turned = large.rotate(angle, Image.Resampling.BICUBIC)
    small = turned.resize((edge, edge), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[..., None] / 255


class _Disc(NamedTuple):
    """A disc in a circle of radius 1 around the middle, y downwards."""

    x: float
    y: float
    radius: float


def _pieces(form: str) -> list[tuple[int, _Disc | list[tuple[float, float]]]]:
    """What is painted (255) and wiped out (0) one after the other to get a form."""
    if form == "circle":
        return [(255, _Disc(0, 0, 0.9))]
    if form == "ring":
        return [(255, _Disc(0, 0, 0.95)), (0, _Disc(0, 0, 0.5))]
    if form == "moon":
        return [(255, _Disc(0, 0, 0.95)), (0, _Disc(0.5, 0, 0.75))]
    if form == "heart":
        point = [(-0.87, 0.05), (0, -0.2), (0.87, 0.05), (0, 0.95)]
        return [(255, _Disc(-0.45, -0.3, 0.52)), (255, _Disc(0.45, -0.3, 0.52)), (255, point)]
    return [(255, _outline(form))]


def _outline(form: str) -> list[tuple[float, float]]:
    """The corners of a form in a circle of radius 1, y downwards."""
    if form == "square":
        return [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]
    if form == "cross":
        near, far = 0.28, 0.95
        quarter = [(near, -far), (near, -near), (far, -near)]
        return [
            point
            for turns in range(4)
            for x, y in quarter
            for point in [((x, y), (-y, x), (-x, -y), (y, -x))[turns]]
        ]
    count, inner = {"triangle": (3, 1.0), "star": (5, 0.42)}[form]
    steps = count if inner == 1 else 2 * count
    corners = []
    for i in range(steps):
        size = inner if i % 2 and steps > count else 1.0
        angle = 2 * math.pi * i / steps - math.pi / 2
        corners.append((size * math.cos(angle), size * math.sin(angle)))
    return corners
