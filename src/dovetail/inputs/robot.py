"""What a robot sees, is told and feels, as the inputs of a policy; and a policy's actions as the robot's.

    robot = read_robot(store, PolicyInputs(values))
    observation = robot({"base": image}, "pick up the fork", state)
    observation.arrays                                             for the policy
    robot.actions(found)                                           the robot's numbers

State and actions are the robot's where the checkpoint has the statistics of its data set, and the policy's
own where it has none; notes say which, and what is padded, masked or left out. No weights and no torch here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from dovetail.errors import UsageError
from dovetail.inputs.cameras import cameras_of, renames_of, sorted_cameras
from dovetail.inputs.instruction import instruction_tokens
from dovetail.inputs.language import Arrays
from dovetail.inputs.policy import PolicyInputs
from dovetail.inputs.statistics import Statistics, read_statistics
from dovetail.inputs.tokenizer import Tokenizer, read_json, read_side_values, read_tokenizer
from dovetail.report import counted
from dovetail.store.store import Store

Instruction = str | Sequence[int]
Numbers = Float64[np.ndarray, " _"]


class Observation(NamedTuple):
    """The inputs of one moment: which cameras are there, which are missing, and what there is to know."""

    arrays: Arrays
    cameras: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


class Actions(NamedTuple):
    """A chunk of actions as the robot wants them, and what there is to know about them."""

    values: Float64[np.ndarray, "t width"]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotInputs:
    """The inputs of a policy with what lies beside its weights: `renames` are other names of cameras,
    `config` is its config.json."""

    inputs: PolicyInputs
    tokenizer: Tokenizer | None
    statistics: Statistics | None
    cameras: tuple[str, ...]
    renames: Mapping[str, str]
    config: Mapping[str, Any]

    def __call__(
        self, cameras: Mapping[str, np.ndarray], instruction: Instruction, state: Any = None
    ) -> Observation:
        """One moment as the inputs of one row. `instruction` may be token ids.

        Images are decoded (uint8, height x width x 3) and of any size, or all are pixels of the tower's
        size (float32, 3 x height x width, in [-1, 1]).

        Raises:
            UsageError: a camera is not the policy's, or state or instruction do not fit.
        """
        notes: list[str] = []
        seen = sorted_cameras(cameras, self.cameras, self.renames)
        numbers = self._state(state, notes)
        tokens = self._tokens(instruction, numbers)
        has_state = numbers is not None and not self.inputs.is_state_text
        arrays = self.inputs(
            _images(list(seen.values())),
            [[True]] * len(seen),
            [tokens],
            [[True] * len(tokens)],
            numbers[None].astype(np.float32) if numbers is not None and has_state else None,
        )
        missing = tuple(name for name in self.cameras if name not in seen)
        return Observation(arrays, tuple(seen), missing, tuple(notes))

    def actions(self, found: Float64[np.ndarray, "t a"]) -> Actions:
        """A policy's actions as the robot wants them.

        Raises:
            UsageError: the statistics are of more numbers than the policy puts out.
        """
        scale = self.statistics.actions if self.statistics else None
        if scale is None:
            return Actions(found, ("no statistics of the actions: they are as the policy puts them out",))
        width = found.shape[1]
        if scale.width > width:
            raise UsageError(
                f"the statistics are of {scale.width} actions, the policy has {width}",
                source=self.statistics.source if self.statistics else None,
                hint="give --statistics of this robot",
            )
        note = f"{scale.width} of {width} action columns are the robot's; the rest is padding"
        return Actions(scale.unnormalized(found), (note,) if scale.width < width else ())

    @property
    def state_width(self) -> int:
        """How many numbers a state has at most."""
        said = self.config.get("max_state_dim")
        return self.inputs.d_state or (said if isinstance(said, int) else self.inputs.d_action)

    def _state(self, state: Any, notes: list[str]) -> Numbers | None:
        """The state as the policy wants it, normalised; its notes."""
        if state is None:
            return None
        numbers = np.asarray(state, dtype=np.float64)
        if numbers.ndim == 2 and len(numbers) == 1:
            numbers = numbers[0]
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise UsageError(
                "the state is no row of finite numbers",
                expected="(width,)",
                found=str(numbers.shape),
                hint="give the numbers of the robot, one for each axis",
            )
        scale = self.statistics.state if self.statistics else None
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
        if self.inputs.is_state_text and "max_state_dim" not in self.config:
            return numbers
        lack = self.state_width - len(numbers)
        if lack <= 0:
            return numbers
        notes.append(f"{counted(lack, 'zero')} behind the state's {len(numbers)} numbers")
        return np.pad(numbers, (0, lack))

    def _tokens(self, instruction: Instruction, state: Numbers | None) -> list[int]:
        """The ids of an instruction, all of which the policy has."""
        if state is None and (not self.inputs.is_state_text or isinstance(instruction, str)):
            raise UsageError(
                "this policy needs the state of the robot",
                expected=f"at most {self.state_width} numbers",
                hint="--state FILE.npy, or --state 0.1,0.2,…",
            )
        tokens = self._told(instruction, state) if isinstance(instruction, str) else list(instruction)
        if not tokens:
            raise UsageError("the instruction is empty", hint="say what to do: --instruction TEXT")
        self.inputs.check_tokens(tokens)
        return tokens

    def _told(self, instruction: str, state: Numbers | None) -> list[int]:
        if self.tokenizer is None:
            raise UsageError(
                "there is no tokenizer beside the weights",
                hint="pi0 was made with PaliGemma's: --tokenizer FOLDER, or --tokens 2,1234,108",
            )
        said = self.config.get("tokenizer_max_length")
        prompt = self.inputs.prompt
        most = said if isinstance(said, int) else prompt.max_tokens
        return instruction_tokens(prompt, self.tokenizer, instruction, state, most=most)


def read_robot(
    store: Store,
    inputs: PolicyInputs,
    *,
    tokenizer: Tokenizer | None = None,
    statistics: Statistics | None = None,
) -> RobotInputs:
    """The inputs of a policy with what lies beside its weights; `tokenizer` and `statistics` take its place.

    Raises:
        CheckpointError: a file cannot be read.
        UsageError: there are several files of statistics.
    """
    values = read_side_values(store)
    return RobotInputs(
        inputs=inputs,
        tokenizer=tokenizer or read_tokenizer(store, values),
        statistics=statistics or read_statistics(store, is_quantiles=inputs.is_state_text),
        cameras=cameras_of(values.config),
        renames=renames_of(read_json(store, "policy_preprocessor.json")),
        config=values.config,
    )


def _images(images: Sequence[np.ndarray]) -> Any:
    """One row of images for each camera; pixels as one array."""
    if all(image.dtype == np.float32 and image.ndim == 3 for image in images):
        return np.stack(images)[:, None]
    return [[image] for image in images]
