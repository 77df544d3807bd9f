"""`act`: cameras, an instruction and a state in, a chunk of actions out.

    actor = Actor.load("pi0_base")
    chunk = actor.act({"base": image}, "pick up the fork", state)
    chunk.actions                                               [steps, width]

State and actions are the robot's where the checkpoint has the statistics of its data set, and the
policy's own where it has none; `chunk.notes` says which, and what is padded, masked or left out. Actions
that a robot takes as changes stay changes: no file says which those are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from dovetail.checkpoint import Path
from dovetail.errors import UsageError
from dovetail.inputs.robot import Instruction, RobotInputs, read_robot
from dovetail.inputs.statistics import MeanStd, Statistics, statistics_at, statistics_of_weights
from dovetail.inputs.tokenizer import tokenizer_at
from dovetail.loading.load import Dtype, load
from dovetail.models.arrays import tensors
from dovetail.models.kernels import Weights, choose_kernels
from dovetail.models.policies.policy import Policy
from dovetail.store.open import open_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Actions, and what there is to know about them."""

    actions: Float32[np.ndarray, "t a"]
    cameras: tuple[str, ...]
    missing: tuple[str, ...]
    statistics: str | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The chunk as JSON has it."""
        return {
            "actions": [[float(value) for value in row] for row in self.actions],
            "cameras": list(self.cameras),
            "missing": list(self.missing),
            "statistics": self.statistics,
            "notes": list(self.notes),
        }


class Actor:
    """A policy with what lies beside its weights."""

    def __init__(self, model: Policy, robot: RobotInputs) -> None:
        self.model = model
        self.robot = robot

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        tokenizer: Path | None = None,
        statistics: Path | None = None,
        device: str = "cpu",
        dtype: Dtype | None = None,
        settings: Mapping[str, Any] | None = None,
        as_: str | None = None,
        trust: str | None = None,
        weights: Weights = "stored",
    ) -> "Actor":
        """Loads a policy, with a tokenizer and statistics (norm_stats.json) from elsewhere if given.

        `weights` may be `packed` for this processor, which pays where it acts often, or cut to `int8`
        (`models/kernels.py`).

        Raises:
            UsageError: the checkpoint is of a family that does not act.
            CheckpointError: it is not whole, or what lies beside it cannot be read.
        """
        model = load(checkpoint, device=device, dtype=dtype, settings=settings, as_=as_, trust=trust)
        if not isinstance(model, Policy):
            raise UsageError(
                f"{type(model).__name__} does not act", hint="`dovetail generate` runs language models"
            )
        choose_kernels(model, weights)
        given = None if statistics is None else statistics_at(statistics, is_quantiles=model.d_state == 0)
        with open_checkpoint(checkpoint) as store:
            robot = read_robot(
                store,
                model.inputs,
                tokenizer=None if tokenizer is None else tokenizer_at(tokenizer),
                statistics=given or _among_weights(model),
            )
        return cls(model, robot)

    def act(
        self,
        cameras: Mapping[str, np.ndarray],
        instruction: Instruction,
        state: Any = None,
        *,
        num_steps: int = 10,
        noise: Any = None,
        seed: int = 0,
    ) -> Chunk:
        """A chunk of actions. `instruction` may be token ids; `noise` [steps, width] replaces the seed's.

        Images are decoded (uint8, height x width x 3) and of any size, or all are pixels of the tower's
        size (float32, 3 x height x width, in [-1, 1]).

        Raises:
            UsageError: a camera is not the policy's, or state, noise or instruction do not fit.
        """
        if num_steps < 1:
            raise UsageError(f"actions cannot be made in {num_steps} steps", hint="--steps is at least 1")
        seen = self.robot(cameras, instruction, state)
        inputs = tensors(seen.arrays, self.model.vision.patch_embed.weight.device)
        begin = self._noise(noise, seed).to(inputs["tokens"].device)
        found = self.model.sample_actions(inputs, noise=begin, num_steps=num_steps)[0]
        actions = self.robot.actions(found.double().cpu().numpy())
        masked = [f"no image of {', '.join(seen.missing)}: masked"] if seen.missing else []
        statistics = self.robot.statistics
        return Chunk(
            actions=actions.values.astype(np.float32),
            cameras=seen.cameras,
            missing=seen.missing,
            statistics=statistics.source if statistics else None,
            notes=(*seen.notes, *actions.notes, *masked),
        )

    def _noise(self, noise: Any, seed: int) -> Float[Tensor, "1 t a"]:
        if noise is not None:
            return self.model.begin(noise)
        return torch.randn((1, *self.model.action_shape), generator=torch.Generator().manual_seed(seed))


def _among_weights(model: Policy) -> Statistics | None:
    """The statistics that a policy keeps among its weights, None if it keeps none."""
    if model.normalizer is None:
        return None
    state, actions = (
        MeanStd(*(part.detach().double().cpu().numpy() for part in (one.mean, one.std)))
        for one in (model.normalizer.state_in, model.normalizer.action_out)
    )
    return statistics_of_weights(state, actions)


def act(
    checkpoint: Path,
    cameras: Mapping[str, np.ndarray],
    *,
    instruction: Instruction,
    state: Any = None,
    steps: int = 10,
    noise: Any = None,
    seed: int = 0,
    tokenizer: Path | None = None,
    statistics: Path | None = None,
    device: str = "cpu",
    dtype: Dtype | None = None,
    weights: Weights = "stored",
    set: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
) -> Chunk:
    """The actions of a checkpoint for one view of the world; who acts often loads an `Actor` once.

    The words are those of `dovetail act`; what they mean, `Actor.load` and `Actor.act` say.

    Raises:
        CheckpointError: the checkpoint is not whole.
        UsageError: it is of a family that does not act, or what is given does not fit it.
    """
    actor = Actor.load(
        checkpoint,
        tokenizer=tokenizer,
        statistics=statistics,
        device=device,
        dtype=dtype,
        settings=set,
        as_=as_,
        trust=trust,
        weights=weights,
    )
    return actor.act(cameras, instruction, state, num_steps=steps, noise=noise, seed=seed)
