"""`evaluate_policy`: the actions of a policy held against those that a robot took.

    found = dovetail.evaluate_policy("run/best", "pick_up")
    found.dimensions["gripper"].mean, found.total.mean

For every frame of a data set the policy makes a chunk of actions from seeded noise, each of which is compared
with the recorded one, in the robot's numbers. Steps past the end of an episode do not count.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from dovetail.checkpoint import Path
from dovetail.data.episodes import Step, Steps, open_episodes
from dovetail.data.policy import read_policy
from dovetail.data.policy_batches import CameraMap, PolicyBatches
from dovetail.errors import UsageError
from dovetail.loading.load import Dtype, load
from dovetail.models.arrays import tensors
from dovetail.train.draws import draws

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionError:
    """Differences between actions made and recorded: how many, the mean of their sizes, the root of the mean
    of their squares, and the largest. `first` is the mean at the first step of a chunk, which is taken next.
    """

    count: int
    mean: float
    rms: float
    largest: float
    first: float

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {
            "count": self.count,
            "mean_abs": self.mean,
            "rms": self.rms,
            "largest": self.largest,
            "mean_abs_of_first_step": self.first,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """A policy held against a data set; `notes` say what was assumed."""

    checkpoint: str
    family: str
    layout: str
    dtype: str
    data: str
    fingerprint: str
    samples: int
    of: int
    horizon: int
    dimensions: Mapping[str, ActionError]
    total: ActionError
    notes: tuple[str, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The evaluation as plain JSON values."""
        return {
            "checkpoint": self.checkpoint,
            "family": self.family,
            "layout": self.layout,
            "dtype": self.dtype,
            "data": self.data,
            "data_fingerprint": self.fingerprint,
            "samples": self.samples,
            "samples_of": self.of,
            "steps": self.horizon,
            **self.total.as_json(),
            "dimensions": {name: one.as_json() for name, one in self.dimensions.items()},
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def evaluate_policy(
    checkpoint: Path,
    data: Path,
    *,
    limit: int | None = None,
    batch: int = 8,
    steps: int = 10,
    seed: int = 0,
    cameras: CameraMap | None = None,
    statistics: Path | None = None,
    device: str = "cpu",
    dtype: Dtype | None = None,
    set: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
    progress: Progress | None = None,
) -> PolicyEvaluation:
    """How far a policy's actions are from those of a robot's data set, or of its first `limit` frames.

    `batch` frames are run at once, each from noise that `seed` and its number decide, in `steps` steps.
    `cameras` says which camera of the data is which of the policy, `statistics` take the place of those of
    the checkpoint. `set`, `as_` and `trust` are those of `load`.

    Raises:
        UsageError: the checkpoint does not act, or cameras, states or actions are not the policy's.
        CheckpointError: it is not whole.
        FormatError: the data set is damaged.
    """
    began = time.perf_counter()
    for value, word in ((limit, "--limit"), (batch, "--batch"), (steps, "--steps")):
        if value is not None and value < 1:
            raise UsageError(f"{word} {value} is none", hint=f"{word} is at least 1")
    facts = read_policy(checkpoint, statistics=statistics, settings=set, as_=as_, trust=trust)
    episodes = open_episodes(data)
    batches = PolicyBatches(facts, episodes, cameras=cameras)
    samples = Steps(episodes, horizon=facts.horizon)
    count = min(limit or len(samples), len(samples))
    model: Any = load(checkpoint, device=device, dtype=dtype, settings=set, as_=as_, trust=trust)
    run = _Run(model, batches, samples, seed, steps)
    for start in range(0, count, batch):
        run.add(range(start, min(start + batch, count)))
        if progress is not None:
            progress(min(start + batch, count), count)
    whole = np.stack(run.apart)
    names = episodes.action_names or tuple(f"action {i}" for i in range(whole.shape[2]))
    return PolicyEvaluation(
        checkpoint=model.report.path,
        family=model.report.family,
        layout=facts.layout,
        dtype=str(model.vision.patch_embed.weight.dtype).removeprefix("torch."),
        data=episodes.source,
        fingerprint=episodes.fingerprint,
        samples=count,
        of=len(samples),
        horizon=facts.horizon,
        dimensions={name: _error(whole[:, :, [i]]) for i, name in enumerate(_distinct(names))},
        total=_error(whole),
        notes=tuple(run.notes),
        seconds=time.perf_counter() - began,
    )


class _Run:
    """A policy and how far its actions were off so far, frame by frame."""

    def __init__(self, model: Any, batches: PolicyBatches, samples: Steps, seed: int, steps: int) -> None:
        self._model, self._batches, self._samples = model, batches, samples
        self._seed, self._steps = seed, steps
        self._device = model.vision.patch_embed.weight.device
        self.apart: list[np.ndarray] = []
        self.notes = list(batches.notes)

    def add(self, numbers: Sequence[int]) -> None:
        """Runs some frames at once."""
        some = [self._samples[i] for i in numbers]
        made = self._batches(some)
        shape = made["targets"].shape[1:]
        noise, _ = draws(torch.from_numpy(made["samples"]), shape, seed=self._seed, step=0)
        found = self._model.sample_actions(
            tensors(made["inputs"], self._device), noise=noise.to(self._device), num_steps=self._steps
        )
        for step, chunk in zip(some, found.double().cpu().numpy(), strict=True):
            actions = self._batches.robot.actions(chunk)
            self.notes += [one for one in actions.notes if one not in self.notes]
            self.apart.append(_apart(step, actions.values))


def _apart(step: Step, made: np.ndarray) -> Float64[np.ndarray, "t a"]:
    """How far each action is from the recorded one; NaN where there is none."""
    width = step.actions.shape[1]
    return np.where(step.is_past[:, None], np.nan, np.abs(made[:, :width] - step.actions))


def _error(apart: Float64[np.ndarray, "n t a"]) -> ActionError:
    known = apart[~np.isnan(apart)]
    return ActionError(
        count=len(known),
        mean=float(known.mean()),
        rms=math.sqrt(float((known**2).mean())),
        largest=float(known.max()),
        first=float(apart[:, 0].mean()),
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where two are the same."""
    return [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names)]
