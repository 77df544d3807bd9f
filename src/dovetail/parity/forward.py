"""One forward run of a checkpoint on made-up input of its true shapes, stage by stage.

Says what no header and no single tensor can: that the model runs, and that numbers stay finite. It does not
say that they are right: `verify` compares with a reference.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dovetail.checkpoint import Checkpoint
from dovetail.errors import DovetailError, UsageError
from dovetail.loading.load import load_opened
from dovetail.models.policies.policy import Policy
from dovetail.models.taps import Step, attached
from dovetail.parity.example import example_inputs
from dovetail.parity.stages import stages_of
from dovetail.report import Finding, Report, counted


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """What came out of one stage: `largest` is the largest magnitude of the finite numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    seconds: float
    not_finite: int
    largest: float

    def as_json(self) -> dict[str, Any]:
        """The stage as plain JSON values."""
        return {
            "stage": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "seconds": round(self.seconds, 6),
            "not_finite": self.not_finite,
            "largest": self.largest,
        }


def forward(model: nn.Module, *, seed: int = 0) -> list[StageRun]:
    """Every stage of one run on made-up input; the last one is the whole model.

    Raises:
        UsageError: the model runs on nothing that can be made up.
    """
    inputs = example_inputs(model, seed=seed)
    stages: list[StageRun] = []

    def timed(step: Step) -> Any:
        begin = perf_counter()
        found = step.run()
        seconds = perf_counter() - begin
        first = next(leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor))
        stages.append(_stage(step.name, first, seconds))
        return found

    begin = perf_counter()
    with torch.inference_mode(), attached(model, timed, stages_of(model)):
        found = _run(model, inputs)
    return [*stages, _stage("(whole)", found, perf_counter() - begin)]


def with_forward(report: Report, checkpoint: Checkpoint) -> Report:
    """The report with a forward run, if the checkpoint is whole."""
    if not report.is_whole:
        return report.replace(unchecked=(*report.unchecked, "a forward run (it is not whole)"))
    begin = perf_counter()
    try:
        stages = forward(load_opened(checkpoint))
    except UsageError as error:
        unchecked = (*report.unchecked, "a forward run (dovetail cannot run it)")
        return report.replace(unchecked=unchecked).with_findings(
            Finding(
                code="not-run",
                severity="warning",
                message=f"the checkpoint is whole, and dovetail cannot run it: {error.message}",
                hint=error.hint,
            )
        )
    except DovetailError as error:
        return report.with_findings(
            Finding(
                code="forward-failed",
                severity="error",
                message=f"the model cannot be run: {error.message}",
                hint=error.hint,
            )
        )
    seconds = {**report.seconds, "forward": perf_counter() - begin}
    done = report.replace(forward=tuple(stage.as_json() for stage in stages), seconds=seconds)
    return done.with_findings(*_findings(stages))


def _findings(stages: list[StageRun]) -> Iterator[Finding]:
    """The first stage whose numbers are not finite; those after it follow from it."""
    bad = [stage for stage in stages if stage.not_finite]
    if bad:
        first = bad[0]
        size = counted(math.prod(first.shape), "number")
        yield Finding(
            code="forward-not-finite",
            severity="error",
            part=first.name.partition(".")[0] if "." in first.name else None,
            message=f"`{first.name}` puts out {first.not_finite} NaN or infinite of {size}, "
            "the first stage that does",
            hint="`dovetail validate --values` finds NaN in weights; if none is, the dtype is too narrow",
        )


def _run(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The output of a model; a policy keeps its prefix, as when it acts."""
    if isinstance(model, Policy):
        plain = {name: value for name, value in inputs.items() if name not in ("x_t", "t")}
        return model.velocity(plain, inputs["x_t"], inputs["t"], prefix=model.prefix(plain))
    found: Tensor = model(**inputs)
    return found


def _stage(name: str, found: Tensor, seconds: float) -> StageRun:
    finite = found[found.isfinite()]
    return StageRun(
        name=name,
        shape=tuple(found.shape),
        dtype=str(found.dtype).removeprefix("torch."),
        seconds=seconds,
        not_finite=found.numel() - finite.numel(),
        largest=float(finite.abs().max()) if finite.numel() else 0.0,
    )
