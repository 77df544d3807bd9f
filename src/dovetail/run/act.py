"""`act`: cameras, an instruction and a state in, a chunk of actions out.

    actor = Actor.load("pi0_base")
    chunk = actor.act({"base": image}, "pick up the fork", state)
    chunk.actions                                               [steps, width]

State and actions are the robot's where the checkpoint has the statistics of its data set, and the
policy's own where it has none; `chunk.notes` says which, and what is padded, masked or left out. Actions
that a robot takes as changes stay changes: no file says which those are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from dovetail.checkpoint import Path
from dovetail.errors import UsageError
from dovetail.inputs.cameras import cameras_of, renames_of, sorted_cameras
from dovetail.inputs.instruction import LENGTHS, check_length, pi0_tokens, pi05_tokens
from dovetail.inputs.tokenizer import Tokenizer, read_json, read_side_values, read_tokenizer, tokenizer_at
from dovetail.loading.load import Dtype, load
from dovetail.models.policies.policy import Policy
from dovetail.report import counted
from dovetail.run.fast import Weights, made_fast
from dovetail.run.statistics import Scale, Statistics, read_statistics, statistics_at
from dovetail.store.open import open_checkpoint

Instruction = str | Sequence[int]
Numbers = Float64[np.ndarray, " _"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What lies beside the weights of a policy."""

    tokenizer: Tokenizer | None
    statistics: Statistics | None
    cameras: tuple[str, ...]
    renames: Mapping[str, str]
    config: Mapping[str, Any]


class Actor:
    """A policy with what lies beside its weights."""

    def __init__(self, model: Policy, beside: Surroundings) -> None:
        self.model = model
        self.beside = beside
        self.family: str = model.report.family  # type: ignore[union-attr, assignment]

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
        weights: Weights = "stored",
    ) -> "Actor":
        """Loads a policy, with a tokenizer and statistics (norm_stats.json) from elsewhere if given.

        `weights` may be `packed` for this processor, which pays where it acts often, or cut to `int8`
        (`run/fast.py`).

        Raises:
            UsageError: the checkpoint is of a family that does not act.
            CheckpointError: it is not whole, or what lies beside it cannot be read.
        """
        model = load(checkpoint, device=device, dtype=dtype, settings=settings, as_=as_)
        if not isinstance(model, Policy):
            raise UsageError(
                f"{type(model).__name__} does not act", hint="`dovetail generate` runs language models"
            )
        made_fast(model, weights)
        with open_checkpoint(checkpoint) as store:
            values = read_side_values(store)
            pipeline = read_json(store, "policy_preprocessor.json")
            is_quantiles = model.d_state == 0
            beside = Surroundings(
                tokenizer=read_tokenizer(store, values),
                statistics=read_statistics(store, model, is_quantiles=is_quantiles)
                if statistics is None
                else statistics_at(statistics, is_quantiles=is_quantiles),
                cameras=cameras_of(values.config),
                renames=renames_of(pipeline),
                config=values.config,
            )
        if tokenizer is not None:
            beside = replace(beside, tokenizer=tokenizer_at(tokenizer))
        return cls(model, beside)

    @property
    def is_state_text(self) -> bool:
        """Whether the state is part of the text (pi0.5)."""
        return self.model.d_state == 0

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
        notes: list[str] = []
        seen = sorted_cameras(cameras, self.beside.cameras, self.beside.renames)
        missing = tuple(name for name in self.beside.cameras if name not in seen)
        numbers = self._state(state, notes)
        tokens = self._tokens(instruction, numbers)
        inputs = self.model.prepare(
            _images(list(seen.values())),
            [[True]] * len(seen),
            [tokens],
            [[True] * len(tokens)],
            None if numbers is None or self.is_state_text else torch.from_numpy(numbers[None]).float(),
        )
        begin = self._noise(noise, seed).to(inputs["tokens"].device)
        found = self.model.sample_actions(inputs, noise=begin, num_steps=num_steps)[0]
        actions = self._actions(found.double().cpu().numpy(), notes)
        if missing:
            notes.append(f"no image of {', '.join(missing)}: masked")
        statistics = self.beside.statistics
        return Chunk(
            actions=actions.astype(np.float32),
            cameras=tuple(seen),
            missing=missing,
            statistics=statistics.source if statistics else None,
            notes=tuple(notes),
        )

    def _state(self, state: Any, notes: list[str]) -> Numbers | None:
        """The state as the policy wants it, normalised; its notes."""
        if state is None:
            return None
        numbers = np.asarray(state, dtype=np.float64)
        if numbers.ndim == 2 and len(numbers) == 1:
            numbers = numbers[0]
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise UsageError(
                "the state is no row of finite numbers", expected="(width,)", found=str(numbers.shape)
            )
        scale = self._scale("state")
        most = scale.width if scale else self.state_width
        if len(numbers) > most:
            raise UsageError(
                f"the state has {len(numbers)} numbers, {'its statistics' if scale else 'the policy'} {most}",
                hint="give the numbers that the policy was trained with, in their order",
            )
        if scale:
            numbers = scale.normalized(numbers)
            if len(numbers) < most:
                notes.append(f"the state has {len(numbers)} of the {most} numbers of its statistics")
        else:
            notes.append("no statistics of the state: it is taken as it is given")
        return self._padded(numbers, notes)

    def _padded(self, numbers: Numbers, notes: list[str]) -> Numbers:
        """The state with zeros behind, up to the policy's width; openpi leaves pi0.5's as it is."""
        if self.is_state_text and "max_state_dim" not in self.beside.config:
            return numbers
        lack = self.state_width - len(numbers)
        if lack <= 0:
            return numbers
        notes.append(f"{counted(lack, 'zero')} behind the state's {len(numbers)} numbers")
        return np.pad(numbers, (0, lack))

    @property
    def state_width(self) -> int:
        """How many numbers a state has at most."""
        said = self.beside.config.get("max_state_dim")
        return self.model.d_state or (said if isinstance(said, int) else self.model.action_shape[1])

    def _tokens(self, instruction: Instruction, state: Numbers | None) -> list[int]:
        if state is None and (not self.is_state_text or isinstance(instruction, str)):
            raise UsageError(
                "this policy needs the state of the robot",
                expected=f"at most {self.state_width} numbers",
                hint="--state FILE.npy, or --state 0.1,0.2,…",
            )
        if not isinstance(instruction, str):
            return self._checked(list(instruction))
        tokenizer = self.beside.tokenizer
        if tokenizer is None:
            raise UsageError(
                "there is no tokenizer beside the weights",
                hint="pi0 was made with PaliGemma's: --tokenizer FOLDER, or --tokens 2,1234,108",
            )
        if self.is_state_text:
            assert state is not None
            tokens = pi05_tokens(tokenizer, instruction, state)
        else:
            tokens = pi0_tokens(tokenizer, instruction)
        said = self.beside.config.get("tokenizer_max_length")
        check_length(tokens, said if isinstance(said, int) else LENGTHS[self.family])
        return self._checked(tokens)

    def _checked(self, tokens: list[int]) -> list[int]:
        """Token ids that the table has."""
        rows = len(self.model.vlm.table)
        wrong = [id for id in tokens if not 0 <= id < rows]
        if wrong or not tokens:
            raise UsageError(
                f"token {wrong[0]} is none of the policy's {rows}" if wrong else "the instruction is empty",
                hint="the tokenizer is of another model, or --tokens is wrong" if wrong else None,
            )
        return tokens

    def _noise(self, noise: Any, seed: int) -> Float[Tensor, "1 t a"]:
        shape = self.model.action_shape
        if noise is None:
            return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))
        given = torch.as_tensor(np.asarray(noise, dtype=np.float32))
        if given.shape == (1, *shape):
            return given
        if given.shape != shape:
            raise UsageError("the noise does not fit", expected=str(shape), found=str(tuple(given.shape)))
        return given[None]

    def _actions(self, found: Float64[np.ndarray, "t a"], notes: list[str]) -> Float64[np.ndarray, "t width"]:
        """Actions as the robot wants them."""
        scale = self._scale("actions")
        if scale is None:
            notes.append("no statistics of the actions: they are as the policy puts them out")
            return found
        if scale.width > found.shape[1]:
            raise UsageError(
                f"the statistics are of {scale.width} actions, the policy has {found.shape[1]}",
                source=self.beside.statistics.source if self.beside.statistics else None,
            )
        if scale.width < found.shape[1]:
            notes.append(
                f"{scale.width} of {found.shape[1]} action columns are the robot's; the rest is padding"
            )
        return scale.unnormalized(found)

    def _scale(self, name: str) -> Scale | None:
        statistics = self.beside.statistics
        if statistics is None:
            return None
        return statistics.state if name == "state" else statistics.actions


def _images(images: list[np.ndarray]) -> Any:
    """One row of images for each camera; pixels as one tensor."""
    if all(image.dtype == np.float32 and image.ndim == 3 for image in images):
        return torch.from_numpy(np.stack(images))[:, None]
    return [[image] for image in images]
