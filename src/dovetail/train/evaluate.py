"""`evaluate`: what a checkpoint answers, held against a manifest. Nothing but the checkpoint is asked for.

    found = dovetail.evaluate("run/best", "val.jsonl")
    found.total.exact_share, found.kinds["colour"].token_accuracy, found.wrong[0].said

Each answer is generated greedily from the tokens that training sees before it, batch by batch, and compared
as text; loss and token accuracy are of the true answers, told token by token (teacher forcing).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dovetail.checkpoint import Path
from dovetail.data.batches import Batches
from dovetail.data.labels import Labelled, Labeller, read_labeller
from dovetail.data.manifest import Manifest, open_manifest
from dovetail.data.refusals import OnError
from dovetail.errors import DataError, UsageError
from dovetail.loading.load import Dtype
from dovetail.models.arrays import tensors
from dovetail.models.stage import Stage
from dovetail.run.engine import answers
from dovetail.run.generate import Generator
from dovetail.run.sampling import Sampling, chooser
from dovetail.train.evaluation import Evaluation, Tally, Wrong, names_of
from dovetail.train.questions import Question, questions_of
from dovetail.train.scores import row_scores

# How many more tokens than the true answer has may be generated before an answer counts as another one.
MARGIN = 16
# Of how many wrong answers the images are kept, to be looked at.
SHOWN = 60
Progress = Callable[[int, int], None]


class Asked(NamedTuple):
    """A sample on its way: its row, and the questions in it."""

    row: Labelled
    questions: list[Question]


class Evaluator:
    """A model with its tokenizer, and what has been counted so far. `batch` samples are asked at once."""

    def __init__(self, generator: Generator, labeller: Labeller, *, batch: int, on_error: OnError) -> None:
        if batch < 1:
            raise UsageError(f"a batch of {batch} samples is none", hint="--batch is at least 1")
        if generator.tokenizer is None:
            raise UsageError(
                "there is no tokenizer beside the weights", hint="put tokenizer.json into the folder"
            )
        self._generator, self._labeller, self._tokenizer = generator, labeller, generator.tokenizer
        self._batches = Batches(generator.model.inputs, max_length=generator.context)
        self._size, self._on_error = batch, on_error
        self.samples = 0
        self.kinds: dict[str | None, Tally] = defaultdict(Tally)
        self.wrong: list[Wrong] = []
        self.skipped: list[DataError] = []

    def run(self, samples: Manifest, progress: Progress | None = None) -> None:
        """Asks everything that is in some samples.

        Raises:
            DataError: a sample cannot be asked, unless such are skipped.
        """
        for start in range(0, len(samples), self._size):
            asked = []
            for number in range(start, min(start + self._size, len(samples))):
                try:
                    sample = samples[number]
                    row = self._labeller.labelled(sample)
                    asked.append(Asked(row, questions_of(sample, row, self._labeller)))
                except DataError as error:
                    self._skip(error)
            self._whole_or_each(asked)
            if progress is not None:
                progress(min(start + self._size, len(samples)), len(samples))

    def _whole_or_each(self, batch: list[Asked]) -> None:
        """Asks a batch; if one of its samples cannot be asked, the others by themselves."""
        if not batch:
            return
        try:
            self._ask(batch)
        except DataError as error:
            if len(batch) == 1 or self._on_error == "stop":
                self._skip(error)
                return
            for one in batch:
                self._whole_or_each([one])

    def _skip(self, error: DataError) -> None:
        if self._on_error == "stop":
            raise error
        self.skipped.append(error)

    def _ask(self, batch: Sequence[Asked]) -> None:
        """Everything about a batch; nothing is counted before all of it is known."""
        model = self._generator.model
        made = self._batches([one.row for one in batch])
        targets = tensors({"targets": made["targets"]}, model.device)["targets"]
        scores = row_scores(model, tensors(made["inputs"], model.device), targets)
        questions = [question for one in batch for question in one.questions]
        answered = list(self._answered(questions))
        for i, one in enumerate(batch):
            of_row = (int(scores.items[i]), int(scores.right[i]), float(scores.loss[i]))
            self.kinds[one.row.kind].add(Tally(0, 0, *of_row))
        for question, tokens in zip(questions, answered, strict=True):
            self._judge(question, tokens)
        self.samples += len(batch)

    def _judge(self, question: Question, tokens: Sequence[int]) -> None:
        """Counts an answer: it is exact if it says the same, blanks around it aside, and ends."""
        said = self._tokenizer.decode(tokens)
        has_ended = bool(tokens) and tokens[-1] in self._generator.stop
        is_exact = said.strip() == question.wanted.strip() and (has_ended or not question.has_end)
        self.kinds[question.kind].add(Tally(1, int(is_exact)))
        if not is_exact:
            shown = question.images if len(self.wrong) < SHOWN else ()
            names = names_of(question.images)
            self.wrong.append(Wrong(*question[:5], said, has_ended, names, shown))

    def _answered(self, questions: Sequence[Question]) -> Iterator[list[int]]:
        """What the model answers, as many questions at once as there are samples in a batch."""
        for start in range(0, len(questions), self._size):
            yield from self._generated(questions[start : start + self._size])

    def _generated(self, questions: Sequence[Question]) -> list[list[int]]:
        """The tokens of the answers, each as long as the true one and a margin at the most.

        An answer that nothing ends is compared as far as the true one goes.
        """
        model = self._generator.model
        images = [[one.pixels() for one in question.images] for question in questions]
        rows = [question.prompt for question in questions]
        inputs = model.prepare(rows, images if any(images) else ())
        with torch.inference_mode():
            prompts = list(model.embed(**inputs).rows())
        limits = [len(one.answer) + (MARGIN if one.has_end else 0) for one in questions]
        found: list[list[int]] = [[] for _ in questions]
        steps = answers(
            [Stage(model)],
            prompts,
            max_new_tokens=max(limits),
            stop=self._generator.stop,
            choose=chooser(Sampling(), self._generator.vocab_used),
        )
        for chosen in steps:
            for i, token in chosen.items():
                found[i].append(token)
            if all(len(found[i]) >= limits[i] for i in chosen):
                break
        return [tokens[:limit] for tokens, limit in zip(found, limits, strict=True)]


def evaluate(
    checkpoint: Path,
    data: Path | Manifest,
    *,
    image_root: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch: int = 8,
    on_error: OnError = "stop",
    device: str = "cpu",
    dtype: Dtype | None = None,
    set: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """What a checkpoint answers to the questions of a manifest, or of the first `limit` samples of it.

    `image_root` and `seed` are those of `open_manifest`; `batch` is the number of samples at once. Under
    `on_error="skip"` samples that cannot be asked are left out and listed. `set`, `as_` and `trust` are those
    of `load`; `progress` is called with samples done and samples in all.

    Raises:
        UsageError: the checkpoint is of a family that does not speak, or an option does not fit.
        CheckpointError: it is not whole.
        DataError: a sample cannot be asked; the error names it. Or there are none.
    """
    began = time.perf_counter()
    samples = data if isinstance(data, Manifest) else open_manifest(data, image_root=image_root, seed=seed)
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} samples are none", hint="--limit is at least 1")
    some = samples if limit is None or limit >= len(samples) else samples[:limit]
    labeller = read_labeller(checkpoint, settings=set, as_=as_, trust=trust)
    generator = Generator.load(
        checkpoint, device=device, dtype=dtype, settings=set, as_=as_, trust=trust, weights="stored"
    )
    evaluator = Evaluator(generator, labeller, batch=batch, on_error=on_error)
    evaluator.run(some, progress)
    if not evaluator.samples:
        raise _nothing(evaluator.skipped)
    report: Any = generator.model.report
    return Evaluation(
        checkpoint=report.path,
        family=report.family,
        layout=report.layout if isinstance(report.layout, str) else "mixed",
        dtype=str(generator.model.head_weight.dtype).removeprefix("torch."),
        data=samples.path,
        fingerprint=some.fingerprint,
        samples=evaluator.samples,
        of=len(samples),
        kinds=_in_order(evaluator.kinds),
        wrong=tuple(evaluator.wrong),
        skipped=tuple(evaluator.skipped),
        assumptions={name: value.value for name, value in generator.assumptions.items()},
        seconds=time.perf_counter() - began,
    )


def _in_order(kinds: Mapping[str | None, Tally]) -> dict[str, Tally]:
    """The kinds by name; what no record names is the kind ''."""
    return {kind or "": kinds[kind] for kind in sorted(kinds, key=lambda kind: (kind is None, kind or ""))}


def _nothing(skipped: Sequence[DataError]) -> DataError:
    first = skipped[0]
    return DataError(
        f"all {len(skipped)} samples are left out; the first one because {first.message}",
        **first.details,
        hint=first.hint,
    )
