"""The label certificate: what is learned of samples, before the first step.

    certificate(labeller, samples)      3 samples, 812 tokens, 96 learned (11.8%); the first one, shown

A sample that cannot be labelled is an error, or under `on_error="skip"` left out, counted and listed.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dovetail.data.batches import Batches, expanded, sizes_of
from dovetail.data.labels import Labeller
from dovetail.data.refusals import OnError
from dovetail.data.sample import Sample
from dovetail.errors import DataError
from dovetail.report import Finding, counted

# Of how many samples the tokens are kept, to be looked at.
SHOWN = 3


@runtime_checkable
class Samples(Protocol):
    """Samples by number: a manifest, or a list of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


class Refused(NamedTuple):
    """A sample that is left out: its number among those given, where it stands, and why."""

    number: int
    place: str
    error: DataError


class Shown(NamedTuple):
    """A sample to look at: its text in pieces, each with whether it is learned."""

    place: str
    pieces: tuple[tuple[str, bool], ...]
    tokens: int
    learned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCertificate:
    """What is learned. `lengths` are the tokens of each sample that is not refused, those of images
    included, and `numbers` say which samples these are."""

    source: str
    learn: str
    numbers: Sequence[int]
    lengths: Sequence[int]
    tokens: int
    image_tokens: int
    learned: int
    without_end: int
    shown: tuple[Shown, ...]
    refused: tuple[Refused, ...]

    @property
    def share(self) -> float:
        """The share of tokens that is learned, 0 to 1."""
        return self.learned / max(self.tokens, 1)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What to know before training."""
        found = []
        if self.refused:
            reasons = Counter(one.error.message for one in self.refused).most_common(3)
            why = "; ".join(f"{count} x {reason}" for reason, count in reasons)
            found.append(
                Finding(
                    code="samples-left-out",
                    severity="warning",
                    message=f"{counted(len(self.refused), 'sample')} left out: {why}",
                    hint="--json lists all of them",
                )
            )
        if self.without_end:
            found.append(
                Finding(
                    code="answers-without-end",
                    severity="warning",
                    message=f"the answers of {counted(self.without_end, 'sample')} end with no token that "
                    "stops generation: the model learns to answer, not to end",
                    hint="give a chat template that puts the tokenizer's eos_token behind answers",
                )
            )
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """The certificate as plain JSON values."""
        return {
            "source": self.source,
            "learn": self.learn,
            "samples": len(self.numbers),
            "tokens": self.tokens,
            "image_tokens": self.image_tokens,
            "learned": self.learned,
            "longest": max(self.lengths, default=0),
            "without_end": self.without_end,
            "shown": [
                {
                    "sample": one.place,
                    "tokens": one.tokens,
                    "learned": one.learned,
                    "pieces": [{"text": text, "learned": is_learned} for text, is_learned in one.pieces],
                }
                for one in self.shown
            ],
            "refused": [{"sample": one.place, **one.error.as_json()} for one in self.refused],
            "findings": [finding.as_json() for finding in self.findings],
        }


def certificate(
    labeller: Labeller,
    samples: Samples,
    *,
    batches: Batches | None = None,
    on_error: OnError = "stop",
    shown: int = SHOWN,
    progress: Callable[[int], None] | None = None,
) -> LabelCertificate:
    """What is learned of all samples. `batches` bound their length; images are measured by their headers.

    `progress` is called with the number of samples that are done.

    Raises:
        DataError: a sample cannot be labelled or is too long, unless such are skipped; or none is left.
    """
    batches = batches or Batches(labeller.inputs)
    tally = _Tally(labeller, batches, shown)
    refused: list[Refused] = []
    for number in range(len(samples)):
        try:
            tally.add(number, samples[number])
        except DataError as error:
            if on_error == "stop":
                raise
            refused.append(Refused(number, _place(error, number), error))
        if progress is not None:
            progress(number + 1)
    return tally.certificate(refused)


class _Tally:
    """What is counted while samples go by."""

    def __init__(self, labeller: Labeller, batches: Batches, shown: int) -> None:
        self._labeller, self._batches, self._most = labeller, batches, shown
        self._places = {labeller.inputs.image_token, labeller.inputs.video_token}
        self._numbers, self._lengths = array("q"), array("q")
        self._shown: list[Shown] = []
        self._of_images = self._learned = self._without_end = 0

    def add(self, number: int, sample: Sample) -> None:
        """Labels and measures a sample.

        Raises:
            DataError: it cannot be labelled, or is too long.
        """
        row = self._labeller.labelled(sample)
        whole = self._batches.checked(row, expanded(self._labeller.inputs, row, sizes_of(row)))
        self._numbers.append(number)
        self._lengths.append(len(whole.tokens))
        self._of_images += sum(token in self._places for token in whole.tokens)
        self._learned += row.num_learned
        self._without_end += not row.has_end
        if len(self._shown) < self._most:
            pieces = tuple(self._labeller.pieces(row))
            self._shown.append(Shown(row.place, pieces, len(whole.tokens), row.num_learned))

    def certificate(self, refused: list[Refused]) -> LabelCertificate:
        """The certificate.

        Raises:
            DataError: no sample is left.
        """
        if not self._numbers:
            raise _none_left(refused)
        return LabelCertificate(
            source=self._labeller.source,
            learn=self._labeller.learn,
            numbers=self._numbers,
            lengths=self._lengths,
            tokens=sum(self._lengths),
            image_tokens=self._of_images,
            learned=self._learned,
            without_end=self._without_end,
            shown=tuple(self._shown),
            refused=tuple(refused),
        )


def _place(error: DataError, number: int) -> str:
    """Where a sample stands, by what its error says."""
    said = error.details
    if "file" in said and "record" in said:
        return f"{said['file']}, record {said['record']}"
    return said.get("sample", f"sample {number}")


def _none_left(refused: list[Refused]) -> DataError:
    if not refused:
        return DataError(
            "there are no samples to learn from", hint="give a manifest with at least one record"
        )
    first = refused[0].error
    return DataError(
        f"all {len(refused):,} samples are left out; the first one because {first.message}",
        **{"sample": refused[0].place, **first.details},
        hint=first.hint,
    )
