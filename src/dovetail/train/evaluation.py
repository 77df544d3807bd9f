"""What an evaluation found: counts for each kind of question, and what was answered otherwise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dovetail.data.sample import Seen, Video
from dovetail.errors import DataError


@dataclass(slots=True)
class Tally:
    """Counts over questions of one kind.

    `exact` of `answers` are generated letter by letter as they should be; of `tokens` so many are `right`
    when the model is told all that comes before, and `loss` is their summed cross-entropy.
    """

    answers: int = 0
    exact: int = 0
    tokens: int = 0
    right: int = 0
    loss: float = 0.0

    def add(self, other: "Tally") -> None:
        """Counts what another one has counted."""
        self.answers += other.answers
        self.exact += other.exact
        self.tokens += other.tokens
        self.right += other.right
        self.loss += other.loss

    @property
    def exact_share(self) -> float:
        """The share of answers that are exact, 0 to 1."""
        return self.exact / max(self.answers, 1)

    @property
    def token_accuracy(self) -> float:
        """The share of tokens that are right, 0 to 1."""
        return self.right / max(self.tokens, 1)

    @property
    def mean_loss(self) -> float:
        """The loss of a token, the mean over all."""
        return self.loss / max(self.tokens, 1)

    def as_json(self) -> dict[str, Any]:
        """The shares and the counts that they are of; a loss that is no number is none."""
        return {
            "exact_answers": self.exact_share,
            "token_accuracy": self.token_accuracy,
            "loss": self.mean_loss if math.isfinite(self.loss) else None,
            "answers": self.answers,
            "exact": self.exact,
            "tokens": self.tokens,
        }


class Wrong(NamedTuple):
    """A question that was answered otherwise, or by an answer that `has_ended` with no token that ends one.

    `images` are named; of the first ones they are kept, to be looked at.
    """

    place: str
    id: str | None
    kind: str | None
    asked: str
    wanted: str
    said: str
    has_ended: bool
    images: tuple[str, ...]
    shown: tuple[Seen, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The question and both answers."""
        return {
            "sample": self.place,
            "id": self.id,
            "kind": self.kind,
            "question": self.asked,
            "expected": self.wanted,
            "answered": self.said,
            "ended": self.has_ended,
            "images": list(self.images),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A checkpoint held against the answers of a manifest."""

    checkpoint: str
    family: str
    layout: str
    dtype: str
    data: str
    fingerprint: str
    samples: int
    of: int
    kinds: Mapping[str, Tally]
    wrong: tuple[Wrong, ...]
    skipped: tuple[DataError, ...]
    assumptions: Mapping[str, Any]
    seconds: float

    @property
    def total(self) -> Tally:
        """The counts over all kinds."""
        total = Tally()
        for one in self.kinds.values():
            total.add(one)
        return total

    def as_json(self) -> dict[str, Any]:
        """The evaluation as plain JSON values, with every wrong answer."""
        return {
            "checkpoint": self.checkpoint,
            "family": self.family,
            "layout": self.layout,
            "dtype": self.dtype,
            "data": self.data,
            "data_fingerprint": self.fingerprint,
            "samples": self.samples,
            "samples_of": self.of,
            **self.total.as_json(),
            "kinds": {kind or "(none)": one.as_json() for kind, one in self.kinds.items()},
            "wrong": [one.as_json() for one in self.wrong],
            "skipped": [one.as_json() for one in self.skipped],
            "assumed": dict(self.assumptions),
            "seconds": round(self.seconds, 3),
        }


def names_of(images: tuple[Seen, ...]) -> tuple[str, ...]:
    """What images and the frames of videos are called."""
    return tuple(
        name
        for one in images
        for name in ([f.name for f in one.frames] if isinstance(one, Video) else [one.name])
    )
