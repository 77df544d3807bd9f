"""Batches for the recipe: of each picture several questions at once, none of which sees another.

    row          user vision IMG … IMG vision | what is … ? assistant red end | how many … ? assistant 2 end |
    sequence        0      0   0     0      0 |    1  1 … 1         1   1   1 |   2    2 … 2         2 2   2 |
    position        0      1   2 …          6 |    7  8 …                     |   7    8 …

Each question stands where it would stand alone behind the picture, and sees the picture and itself. So one
look at a picture teaches as many answers as there are questions, and what is learnt is what is asked later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.shapes.questions import KINDS, Question, asked
from examples.shapes.scenes import EDGE, Scene, drawn, drawn_scene
from examples.shapes.words import ASSISTANT, END, IMAGE, USER, VISION_END, VISION_START, ids

PATCH, MERGE, FRAMES = 7, 2, 2
GRID = EDGE // PATCH  # patches along an edge
FEATURES = (EDGE // PATCH // MERGE) ** 2
IMAGE_AT = 2  # the column of a picture's first feature
PREFIX = [*ids(f"{USER} {VISION_START}"), *ids(IMAGE) * FEATURES, *ids(VISION_END)]
_FIRST = 3 + EDGE // PATCH // MERGE  # position of a question's first token
IGNORED = -100
_STEP = 32  # columns are a multiple of it, which products in bfloat16 like


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures and the questions about them, as arrays of one row for each picture."""

    pictures: np.ndarray  # uint8, rows x edge x edge x 3
    tokens: np.ndarray  # rows x columns
    targets: np.ndarray  # rows x columns, the token that follows or IGNORED
    sequence: np.ndarray  # rows x columns, 0 the picture, -1 padding
    positions: np.ndarray  # 3 x rows x columns
    questions: Sequence[Sequence[Question]]
    answers: np.ndarray  # rows x columns, the number of the question whose answer the column predicts, or -1


def batch_of(scenes: Sequence[Scene], pictures: np.ndarray, questions: Sequence[Sequence[Question]]) -> Batch:
    """The arrays of scenes, their pictures and the questions about each."""
    longest = len(PREFIX) + max(sum(map(_length, of)) for of in questions)
    width = -(-longest // _STEP) * _STEP
    shape = len(scenes), width
    tokens, sequence = np.zeros(shape, np.int64), np.full(shape, -1)
    targets, answers = np.full(shape, IGNORED), np.full(shape, -1)
    positions = np.zeros((3, *shape), np.int64)
    start = len(PREFIX)
    tokens[:, :start], sequence[:, :start], positions[:, :, :start] = PREFIX, 0, _prefix_positions()[:, None]
    for row, of in enumerate(questions):
        at = start
        for number, question in enumerate(of):
            asking, answer = parts(question)
            end = at + len(asking) + len(answer)
            first = at + len(asking)
            tokens[row, at:first], tokens[row, first:end] = asking, answer
            targets[row, first - 1 : end - 1] = answer
            answers[row, first - 1 : end - 1] = number
            sequence[row, at:end] = number + 1
            positions[:, row, at:end] = np.arange(_FIRST, _FIRST + end - at)
            at = end
    return Batch(
        pictures=pictures,
        tokens=tokens,
        targets=targets,
        sequence=sequence,
        positions=positions,
        questions=questions,
        answers=answers,
    )


def random_batch(
    random: np.random.Generator,
    rows: int,
    *,
    pairs: Sequence[str],
    kinds: Sequence[Sequence[str]] = (KINDS,),
    is_held_out: bool = False,
) -> Batch:
    """Pictures drawn from a generator and questions about them, where a scene has one of a kind: picture `i`
    of `pairs[i % n]`, asked for `kinds[i % n]`."""
    scenes, questions, pictures = [], [], np.empty((rows, EDGE, EDGE, 3), np.uint8)
    while len(scenes) < rows:
        scene = drawn_scene(random, pairs=pairs[len(scenes) % len(pairs)], is_held_out=is_held_out)
        made = [
            asked(random, scene, kind, is_held_out=is_held_out) for kind in kinds[len(scenes) % len(kinds)]
        ]
        found = list(dict.fromkeys(one for one in made if one is not None))
        if found:
            pictures[len(scenes)] = drawn(random, scene)
            scenes.append(scene)
            questions.append(found)
    return batch_of(scenes, pictures, questions)


def patches(pictures: np.ndarray) -> np.ndarray:
    """Pictures as the patches that the model's image processor makes of them (a test compares both)."""
    half = EDGE // PATCH // MERGE
    scaled = pictures.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    cut = scaled.reshape(-1, half, MERGE, PATCH, half, MERGE, PATCH, 3)
    ordered = cut.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]
    return ordered.repeat(FRAMES, axis=6).reshape(-1, 3 * FRAMES * PATCH * PATCH)


def parts(question: Question) -> tuple[list[int], list[int]]:
    """The tokens that ask, and those that are learnt."""
    return ids(f"{question.text} {ASSISTANT}"), ids(f"{question.answer} {END}")


def _length(question: Question) -> int:
    asking, answer = parts(question)
    return len(asking) + len(answer)


def _prefix_positions() -> np.ndarray:
    """Time, height and width of the tokens before the questions (`dovetail.inputs.mrope`)."""
    edge = GRID // MERGE
    rows, columns = np.divmod(np.arange(FEATURES), edge)
    image = np.stack([np.zeros(FEATURES, np.int64), rows, columns]) + 2
    text = np.array([[0, 1], [0, 1], [0, 1]])
    return np.concatenate([text, image, np.full((3, 1), 2 + edge)], axis=1)
