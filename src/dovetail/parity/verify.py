"""`verify`: another backend, dtype, device or checkpoint against the float32 reference, stage by stage.

Every stage is run twice. Isolated, it is fed what the reference was fed: what differs is its own doing.
In the chain, it is fed what the stages before it made: what users get. The first stage that differs
when isolated is where to look. What a candidate feeds a stage (positions, masks, a past, what it makes of
the results before) is compared as well, with the stages before it giving what the reference's gave: what
is wrong between two stages shows at the second, before any of its weights is used.

Passes: `prefill` runs a prompt with an image, `decode` one more token with a cache, `act` the velocity of
actions with a cached prefix, `forward` a tower alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dovetail.checkpoint import Path
from dovetail.errors import DovetailError, UsageError, listed
from dovetail.loading.load import load
from dovetail.models.language import LanguageModel
from dovetail.models.policies.policy import Policy
from dovetail.models.stage import Stage
from dovetail.models.stream import packed
from dovetail.parity.backends import Backend
from dovetail.parity.backends import backend as backend_of
from dovetail.parity.backends.tolerances import CHAIN, TOLERANCES
from dovetail.parity.example import example_inputs
from dovetail.parity.measures import Distance, Tolerance, distance
from dovetail.parity.modules import ModuleResult, modules_of
from dovetail.parity.stages import Call, Recorder, Run
from dovetail.store.open import shown_path

# Runs a model once, and tells the recorder when to look away.
Walk = Callable[[nn.Module, Recorder], None]
Progress = Callable[[int, int], None]


class Shapes(NamedTuple):
    """The shapes of one tensor, None where it is not there."""

    reference: tuple[int, ...] | None
    candidate: tuple[int, ...] | None

    def __str__(self) -> str:
        mine, theirs = ("nothing" if one is None else _by(one) for one in (self.candidate, self.reference))
        return f"{mine} instead of {theirs}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One stage in one pass. `isolated` and `chained` are of its main output, `inputs` of what it was
    fed, `shapes` of that what has another shape than the reference's; `problem` says why it could not be run.
    """

    passed: str
    name: str
    shape: tuple[int, ...]
    isolated: Distance | None
    chained: Distance | None
    inputs: Mapping[str, Distance]
    shapes: Mapping[str, Shapes]
    verdict: str
    problem: str | None = None
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether it is as the reference has it."""
        return self.verdict == "good"

    def as_json(self) -> dict[str, Any]:
        """The stage as plain JSON values."""
        return {
            "pass": self.passed,
            "stage": self.name,
            "shape": list(self.shape),
            "verdict": self.verdict,
            "problem": self.problem,
            "isolated": self.isolated.as_json() if self.isolated else None,
            "chained": self.chained.as_json() if self.chained else None,
            "inputs": {name: one.as_json() for name, one in self.inputs.items()},
            "shapes": {name: one._asdict() for name, one in self.shapes.items()},
            "seconds": round(self.seconds, 6),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All stages of all passes."""

    reference: str
    candidate: str
    backend: str
    dtype: str
    tolerance: Tolerance
    chain_tolerance: Tolerance
    stages: tuple[StageResult, ...]
    note: str | None = None

    @property
    def modules(self) -> tuple[ModuleResult, ...]:
        """The stages by module."""
        return modules_of(self.stages)

    @property
    def first_divergent(self) -> StageResult | None:
        """The first stage that is not as the reference has it."""
        return next((stage for stage in self.stages if not stage.is_good), None)

    def as_json(self) -> dict[str, Any]:
        """The verification as plain JSON values."""
        first = self.first_divergent
        return {
            "schema": 1,
            "reference": self.reference,
            "candidate": self.candidate,
            "backend": self.backend,
            "dtype": self.dtype,
            "note": self.note,
            "good": first is None,
            "first_divergent": None if first is None else {"pass": first.passed, "stage": first.name},
            "tolerance": {"pcc": self.tolerance.pcc, "relative_norm": self.tolerance.relative},
            "chain_tolerance": {
                "pcc": self.chain_tolerance.pcc,
                "relative_norm": self.chain_tolerance.relative,
            },
            "modules": [module.as_json() for module in self.modules],
            "stages": [stage.as_json() for stage in self.stages],
        }


def verify(
    checkpoint: Path | nn.Module,
    backend: str | Backend = "eager",
    *,
    dtype: str = "float32",
    against: Path | nn.Module | None = None,
    inputs: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    names: tuple[str, str] | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Holds `against`, the checkpoint itself by default, run by a backend against the checkpoint.

    Each is a checkpoint or a float32 model on the cpu, and `set` are values that no file says. `inputs` are
    what `prepare` gives (for a policy with `x_t` and `t`); without them an example is made
    (`example_inputs`).

    Raises:
        CheckpointError: a checkpoint is not whole.
        UsageError: the two models have other stages, or the backend is not here.
    """
    reference = _float32(checkpoint, set)
    candidate = None if against is None else _float32(against, set)
    names = names or (_called(checkpoint, "reference"), _called(against or checkpoint, "candidate"))
    backend = backend_of(backend, dtype=dtype) if isinstance(backend, str) else backend
    given = dict(inputs) if inputs is not None else example_inputs(reference)
    stages: list[StageResult] = []
    other = reference if candidate is None else candidate
    for name, walk in passes(reference, given):
        expected = _recorded(reference, walk)
        own, stop = (expected, None) if other is reference else _forced(other, walk, expected)
        _check_stages(expected, own, stop)
        is_sound = all(stage.is_good for stage in stages)
        work = _Pass(name, expected, own, backend, skipped=() if is_sound else ("past",), stop=stop)
        for done, stage in enumerate(expected, 1):
            work.isolate(stage)
            if progress is not None:
                progress(done, len(expected))
        found = work.results(_chained(other, walk, work.runners, own) if work.runners else {})
        stages += _held(found, CHAIN[dtype])
    return Verification(
        reference=names[0],
        candidate=names[1],
        backend=backend.name,
        dtype=dtype,
        tolerance=backend.tolerance,
        chain_tolerance=CHAIN[dtype],
        stages=tuple(stages),
        note="; ".join(filter(None, (backend.note, *notes))) or None,
    )


def _float32(model: Path | nn.Module, settings: Mapping[str, Any] | None) -> nn.Module:
    return model if isinstance(model, nn.Module) else load(model, dtype="float32", settings=settings)


def _called(model: Path | nn.Module, otherwise: str) -> str:
    return otherwise if isinstance(model, nn.Module) else shown_path(model)


def passes(model: nn.Module, inputs: Mapping[str, Any]) -> Iterator[tuple[str, Walk]]:
    """The ways to run a model: each a name and a function that runs it once."""
    if isinstance(model, LanguageModel):
        yield "prefill", lambda one, _: one(**inputs)
        token = _next_token(model, inputs)
        yield "decode", lambda one, recorder: _decode(one, inputs, token, recorder)
    elif isinstance(model, Policy):
        yield "act", lambda one, _: _act(one, inputs)
    else:
        yield "forward", lambda one, _: one(**inputs)


def _next_token(model: LanguageModel, inputs: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        stream = model.embed(**inputs)
        last = model.hidden(stream)[torch.arange(len(stream.last)), stream.last]
        return model.logits(last[:, None])[:, 0].argmax(dim=-1)


def _decode(model: nn.Module, inputs: Mapping[str, Any], token: Tensor, recorder: Recorder) -> None:
    """One more token after each prompt; only this is looked at."""
    assert isinstance(model, LanguageModel)
    recorder.pause()
    prompts = list(model.embed(**inputs).rows())
    stage = Stage(model)
    for i, prompt in enumerate(prompts):
        stage.open(i, prompt.x.shape[1] + 1)
    stage(packed(prompts))
    recorder.resume()
    each = torch.split(stage.embed_tokens(token), 1, dim=1)
    after = [prompt.end.then(x) for x, prompt in zip(each, prompts, strict=True)]
    stage.logits(stage(packed(after)).x)


def _act(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    assert isinstance(model, Policy)
    plain = {name: value for name, value in inputs.items() if name not in ("x_t", "t")}
    model.velocity(plain, inputs["x_t"], inputs["t"], prefix=model.prefix(plain))


def _recorded(model: nn.Module, walk: Walk) -> dict[str, Call]:
    with torch.no_grad(), Recorder().attached(model) as recorder:
        walk(model, recorder)
    return recorder.calls


def _forced(model: nn.Module, walk: Walk, expected: Mapping[str, Call]) -> tuple[dict[str, Call], str | None]:
    """The calls of a model whose stages give what the reference's gave, and why it stopped, if it did."""
    with torch.no_grad(), Recorder(forced=expected).attached(model) as recorder:
        try:
            walk(model, recorder)
        except DovetailError:
            raise
        except Exception as error:  # noqa: BLE001 - a candidate may fail in any way, and that is a result
            return recorder.calls, f"the candidate stops before it: {_told(error)}"
    return recorder.calls, None


def _check_stages(expected: Mapping[str, Call], own: Mapping[str, Call], stop: str | None) -> None:
    more, fewer = sorted(own.keys() - expected.keys()), sorted(expected.keys() - own.keys())
    if more or (fewer and stop is None):
        raise UsageError(
            "the two models have other stages",
            only_in_reference=listed(fewer) if fewer else None,
            only_in_candidate=listed(more) if more else None,
            hint="`dovetail inspect` shows what each is",
        )


def _chained(
    model: nn.Module, walk: Walk, runners: Mapping[str, Run], shapes: Mapping[str, Call]
) -> dict[str, Call]:
    """The calls of a model that is run by a backend, up to where it fails, if it does."""
    with torch.no_grad(), Recorder(runners, shapes).attached(model) as recorder, suppress(Exception):
        walk(model, recorder)
    return recorder.calls


class _Pass:
    """One pass of a verification."""

    def __init__(
        self,
        name: str,
        expected: Mapping[str, Call],
        own: Mapping[str, Call],
        backend: Backend,
        *,
        skipped: tuple[str, ...],
        stop: str | None,
    ) -> None:
        self.runners: dict[str, Run] = {}
        self._name = name
        self._expected = expected
        self._own = own
        self._backend = backend
        self._skipped = skipped
        self._stop = stop
        self._results: dict[str, StageResult] = {}

    def isolate(self, name: str) -> None:
        """Runs one stage on what the reference was fed."""
        expected, own = self._expected[name], self._own.get(name)
        begin = perf_counter()
        isolated, problem = None, self._stop
        inputs: dict[str, Distance] = {}
        shapes: dict[str, Shapes] = {}
        if own is not None:
            inputs, shapes = _fed(own, expected, self._skipped)
            isolated, problem = self._run(name, own, expected)
        self._results[name] = StageResult(
            passed=self._name,
            name=name,
            shape=tuple(expected.outputs[0].shape),
            isolated=isolated,
            chained=None,
            inputs=inputs,
            verdict="",
            problem=problem,
            seconds=perf_counter() - begin,
            shapes=shapes,
        )

    def _run(self, name: str, own: Call, expected: Call) -> tuple[Distance | None, str | None]:
        """How far a stage is off, or why it does not run."""
        if own.stage is None:
            return _worst(own.outputs, expected.outputs), None
        if own.labels != expected.labels:  # it is not what the reference's is fed that it wants
            return None, None
        try:
            runner = self._backend.compile(own.stage, expected.tensors)
            far = _worst(runner(*expected.tensors), expected.outputs)
            self.runners[name] = runner
            return far, None
        except DovetailError:
            raise
        except Exception as error:  # noqa: BLE001 - a backend may fail in any way, and that is a result
            return None, _told(error)

    def results(self, chained: Mapping[str, Call]) -> list[StageResult]:
        """All stages, with what they gave in the chain."""
        found = []
        for name, one in self._results.items():
            call = chained.get(name)
            far = _worst(call.outputs, self._expected[name].outputs) if call is not None else None
            found.append(replace(one, chained=far, verdict=self._verdict(one, far)))
        return found

    def _verdict(self, one: StageResult, chained: Distance | None) -> str:
        exact = TOLERANCES["float32"]
        is_place = self._expected[one.name].stage is None
        wrong = [label for label, far in one.inputs.items() if not exact.passes(far)]
        if wrong:
            named = (f"{label} ({one.shapes[label]})" if label in one.shapes else label for label in wrong)
            return f"{'has' if is_place else 'is fed'} another {', '.join(named)}"
        if one.problem is not None:
            return "does not run"
        assert one.isolated is not None
        if one.isolated.num_bad:
            return "not finite"
        if not (exact if is_place else self._backend.tolerance).passes(one.isolated):
            return "differs"
        if chained is not None and chained.num_bad:
            return "not finite in the chain"
        return "good"


def _held(stages: list[StageResult], chain: Tolerance) -> list[StageResult]:
    """The stages of a pass; where each is good by itself, the last must not be lost in the chain."""
    *before, last = stages
    if not all(stage.is_good for stage in stages) or last.chained is None or chain.passes(last.chained):
        return stages
    return [*before, replace(last, verdict="drifts in the chain")]


def _fed(
    own: Call, expected: Call, skipped: tuple[str, ...]
) -> tuple[dict[str, Distance], dict[str, Shapes]]:
    """How far what a stage is fed is from what the reference's is fed, and which of it has another shape.
    What lies ready is its own first."""
    mine, theirs = (dict(zip(one.labels, one.tensors, strict=True)) for one in (own, expected))
    labels = [
        label
        for label in list(dict.fromkeys((*theirs, *mine)))[1 if expected.stage is None else 0 :]
        if label.partition(".")[0] not in skipped
    ]
    shapes = {label: Shapes(_shape(theirs.get(label)), _shape(mine.get(label))) for label in labels}
    return (
        {label: _apart(mine.get(label), theirs.get(label)) for label in labels},
        {label: one for label, one in shapes.items() if one.reference != one.candidate},
    )


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _apart(mine: Tensor | None, theirs: Tensor | None) -> Distance:
    """The distance of two tensors, infinite if they have other shapes or one is not there."""
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return Distance(pcc=float("nan"), max_abs=float("inf"), relative=float("inf"))
    return distance(mine, theirs)


def _worst(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> Distance:
    """The distance of the output that is furthest off."""
    distances = [_apart(mine, theirs) for mine, theirs in zip_longest(found, expected)]
    return max(distances, key=lambda one: (one.num_bad, one.relative))


def _told(error: BaseException) -> str:
    """An error of someone else in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
