"""Questions about a scene and their answers: of colour, form, number, relation, and a description.

A question is only asked where it has one answer: "what colour is the circle?" where there is one circle.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from examples.shapes.scenes import COLORS, FORMS, HELD_OUT, MORE_COLORS, MORE_FORMS, Scene, Shape

KINDS = ("colour", "shape", "count", "relation", "description")
# in pixels, how far a shape must lie to one side of another to be there, and how near to be not in doubt
_CLEAR = 8
_SIDES = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}


class Question(NamedTuple):
    """A question of a kind, and its answer."""

    kind: str
    text: str
    answer: str


def asked(
    random: np.random.Generator, scene: Scene, kind: str, *, is_held_out: bool = False
) -> Question | None:
    """A question of a kind about a scene, None where the scene has none.

    With `is_held_out` it is about a shape of a held-out pair, or names it in the answer.
    """
    about = [shape for shape in scene if shape.pair in HELD_OUT] if is_held_out else list(scene)
    made = _MAKERS[kind](random, scene, about)
    if not made:
        return None
    text, answer = made[int(random.integers(len(made)))]
    return Question(kind, text, answer)


Made = list[tuple[str, str]]


def _pick(random: np.random.Generator, *texts: str) -> str:
    return texts[int(random.integers(len(texts)))]


def _colour(random: np.random.Generator, scene: Scene, about: list[Shape]) -> Made:
    forms = [shape.form for shape in scene]
    return [
        (_pick(random, f"what colour is the {one.form}?", f"what color is the {one.form}?"), one.color)
        for one in about
        if forms.count(one.form) == 1
    ]


def _shape(random: np.random.Generator, scene: Scene, about: list[Shape]) -> Made:
    colors = [shape.color for shape in scene]
    return [
        (_pick(random, f"what shape is the {one.color} one?", f"which shape is {one.color}?"), one.form)
        for one in about
        if colors.count(one.color) == 1
    ]


def _count(random: np.random.Generator, scene: Scene, about: list[Shape]) -> Made:
    found = [("how many shapes are there?", str(len(scene)))]
    colors, forms = [shape.color for shape in scene], [shape.form for shape in scene]
    asked_colors, asked_forms = [shape.color for shape in about], [shape.form for shape in about]
    if len(about) == len(scene):  # and not only of the shapes of held-out pairs
        is_plain = set(colors) <= set(COLORS) and set(forms) <= set(FORMS)
        asked_colors.append(_other(random, COLORS if is_plain else (*COLORS, *MORE_COLORS), colors))
        asked_forms.append(_other(random, FORMS if is_plain else FORMS + MORE_FORMS, forms))
    for color in asked_colors:  # twice in the list where there are two: one is frequent enough
        found.append((f"how many {color} shapes are there?", str(colors.count(color))))
    for form in asked_forms:
        found.append((f"how many {plural(form)} are there?", str(forms.count(form))))
    return found


def _other(random: np.random.Generator, known: Iterable[str], there: Sequence[str]) -> str:
    """A colour or form that is not there."""
    return _pick(random, *(one for one in known if one not in there))


def _relation(random: np.random.Generator, scene: Scene, about: list[Shape]) -> Made:
    pairs = [shape.pair for shape in scene]
    found = []
    for one in scene:
        if pairs.count(one.pair) > 1:
            continue
        for side, (across, down) in _SIDES.items():
            distances = [(other.x - one.x) * across + (other.y - one.y) * down for other in scene]
            there = [other for other, far in zip(scene, distances, strict=True) if far > 0]
            if len(there) != 1 or max(distances) < _CLEAR or not (one in about or there[0] in about):
                continue
            found.append((f"what is {side} the {one.color} {one.form}?", named(there[0])))
    return found


def _description(random: np.random.Generator, scene: Scene, about: list[Shape]) -> Made:
    return [(_pick(random, "describe the picture.", "what is in the picture?"), described(scene))]


_MAKERS = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "relation": _relation,
    "description": _description,
}


def described(scene: Scene) -> str:
    """The shapes from left to right."""
    names = [named(shape) for shape in sorted(scene, key=lambda shape: shape.x)]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def named(shape: Shape) -> str:
    """A shape in words."""
    return f"{'an' if shape.color == 'orange' else 'a'} {shape.color} {shape.form}"


def plural(form: str) -> str:
    """A form in the plural."""
    return f"{form}es" if form == "cross" else f"{form}s"
