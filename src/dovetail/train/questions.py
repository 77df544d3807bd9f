"""The questions of a sample: what is asked before each of its answers, and what should be said.

    <user>What?<assistant>A boat.</s><user>Whose?<assistant>Hers.</s>

    asked                                                           wanted
    <user>What?<assistant>                                          A boat.</s>
    <user>What?<assistant>A boat.</s><user>Whose?<assistant>        Hers.</s>

Prompt and answer are those that are trained: the tokens that are learned are the answers.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dovetail.data.labels import Labelled, Labeller
from dovetail.data.marked import answers
from dovetail.data.sample import Sample, Seen, Turn
from dovetail.errors import DataError
from dovetail.inputs.rows import IGNORED


class Question(NamedTuple):
    """One question: the tokens of its prompt with one placeholder for each image, and those of the answer,
    its end included unless nothing ends it. `asked` and `wanted` are the same for people."""

    place: str
    id: str | None
    kind: str | None
    asked: str
    wanted: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    images: tuple[Seen, ...]
    has_end: bool


def questions_of(sample: Sample, row: Labelled, labeller: Labeller) -> list[Question]:
    """The questions of a sample, of which `row` is the labelled one.

    Raises:
        DataError: the template puts nothing between two answers.
    """
    spans = list(_learned(row.targets))
    turns = answers(sample.turns, labeller.learn)
    if len(spans) != len(turns):
        raise DataError(
            "the template puts nothing between two answers, so that they cannot be told apart",
            sample=sample.place,
            hint="give a template that marks every turn, or one record for each answer",
        )
    return [
        Question(
            sample.place,
            sample.id,
            sample.kind,
            _asked(sample.turns[:turn]),
            labeller.tokenizer.decode(row.tokens[start:end]),
            row.tokens[:start],
            row.tokens[start:end],
            _seen(sample.turns[:turn]),
            row.has_end,
        )
        for (start, end), turn in zip(spans, turns, strict=True)
    ]


def _learned(targets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where runs of targets begin and end."""
    start = None
    for i, target in enumerate([*targets, IGNORED]):
        if target != IGNORED and start is None:
            start = i
        elif target == IGNORED and start is not None:
            yield start, i
            start = None


def _asked(before: Sequence[Turn]) -> str:
    """What the user said last."""
    return next((turn.text.strip() for turn in reversed(before) if turn.role == "user"), "")


def _seen(before: Sequence[Turn]) -> tuple[Seen, ...]:
    """The images and videos of some turns."""
    return tuple(piece for turn in before for piece in turn.pieces if not isinstance(piece, str))
