"""Batches for policies: observations as a policy is fed them, and actions as it is to make them.

batches = PolicyBatches(policy, episodes)
batches([steps[3], steps[8]])

inputs     pixels, image_masks, tokens, token_mask and state, as `PolicyInputs` makes them
targets    [batch, steps, actions], normalised, zeros behind the robot's columns
counts     which of them the loss is over
samples    the number of each sample, from which its noise is drawn

b  batch    t  action steps    a  action width    c  cameras    n  tokens
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Int64

from dovetail.data.episodes import Episodes, Step
from dovetail.data.policy import Padding, PolicyFacts, counting
from dovetail.errors import DovetailError, UsageError, listed
from dovetail.inputs.cameras import sorted_cameras
from dovetail.inputs.language import Arrays
from dovetail.inputs.rows import pad_rows
from dovetail.inputs.statistics import Scale
from dovetail.report import counted as count_of

_HOW = "--camera-map NAME-IN-DATA=NAME-IN-POLICY"
# Cameras that lerobot adds to a policy and never has images of (`empty_cameras`, configuration_pi0.py).
_EMPTY = "empty_camera_"


class CameraMap(NamedTuple):
    """What cameras of a data set are called by the policy, which are left out, and which of the policy's have
    no images."""

    names: Mapping[str, str] = {}
    left_out: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()


class PolicyBatch(TypedDict):
    """What a policy and its loss take."""

    inputs: Arrays
    targets: Float32[np.ndarray, "b t a"]
    counts: Bool[np.ndarray, "b t a"]
    samples: Int64[np.ndarray, " b"]


class PolicyBatches:
    """Makes a batch of steps. It may be sent to the workers of a data loader.

    `cameras` says which camera is which, `padding` which numbers of the actions count (`policy.py`).

    Raises:
        UsageError: cameras, state or actions of the data set are not the policy's.
    """

    def __init__(
        self,
        policy: PolicyFacts,
        episodes: Episodes,
        *,
        cameras: CameraMap | None = None,
        padding: Padding = "auto",
    ) -> None:
        self.robot = policy.robot
        self.horizon = policy.horizon
        self.counting = counting(policy.layout, padding)
        self.cameras = mapped_cameras(policy, episodes, cameras or CameraMap())
        recorded = episodes.numbers(0)
        self.d_action = recorded.actions.shape[1]
        _check_widths(policy, episodes.source, recorded.state.shape[1], self.d_action)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is assumed: cameras, statistics, which numbers count."""
        robot = self.robot
        missing = [name for name in robot.cameras if name not in self.cameras.values()]
        seen = ", ".join(f"{name} is {camera}" for name, camera in self.cameras.items())
        masked = (f"no image of {', '.join(missing)}: masked",) if missing else ()
        source = robot.statistics.source if robot.statistics else "none: numbers are learnt as they are"
        return f"cameras: {seen}", *masked, f"statistics: {source}", f"actions: {self.counting}"

    def __call__(self, steps: Sequence[Step]) -> PolicyBatch:
        """The arrays of a batch.

        Raises:
            UsageError: an image cannot be read or an instruction is too long; the error names the sample.
        """
        rows = [self._observed(step) for step in steps]
        tokens, mask = pad_rows([row["tokens"][0].tolist() for row in rows], side="right")
        inputs: Arrays = {
            "pixels": np.concatenate([row["pixels"] for row in rows], axis=1),
            "image_masks": np.concatenate([row["image_masks"] for row in rows], axis=1),
            "tokens": tokens,
            "token_mask": mask,
        }
        if "state" in rows[0]:
            inputs["state"] = np.concatenate([row["state"] for row in rows])
        actions = np.stack([self._actions(step) for step in steps])
        counts = np.full(actions.shape, fill_value=True)
        if not self.counting.columns:
            counts[:, :, self.d_action :] = False
        if not self.counting.past:
            counts &= ~np.stack([step.is_past for step in steps])[:, :, None]
        samples = np.array([step.number for step in steps], np.int64)
        return {"inputs": inputs, "targets": actions, "counts": counts, "samples": samples}

    def _observed(self, step: Step) -> Arrays:
        try:
            seen = {camera: step.cameras[name].pixels() for name, camera in self.cameras.items()}
            return self.robot(seen, step.instruction, step.state).arrays
        except DovetailError as error:
            if "sample" in error.details:
                raise
            raise type(error)(error.message, sample=step.place, **error.details, hint=error.hint) from None

    def _actions(self, step: Step) -> Float32[np.ndarray, "t a"]:
        scale = self.robot.statistics.actions if self.robot.statistics else None
        actions = scale.normalized(step.actions) if scale else step.actions
        width = self.robot.inputs.d_action
        return np.pad(actions, ((0, 0), (0, width - actions.shape[1]))).astype(np.float32)


def mapped_cameras(policy: PolicyFacts, episodes: Episodes, given: CameraMap) -> dict[str, str]:
    """Each camera of the data set that is used, and what the policy calls it, in the policy's order.

    Raises:
        UsageError: a camera is unknown, means none of the policy's, or one of the policy's has no images.
    """
    robot = policy.robot
    sides = {"data": listed(episodes.cameras) or "no camera", "policy": listed(robot.cameras)}
    unknown = [name for name in (*given.names, *given.left_out) if name not in episodes.cameras]
    unknown += [name for name in (*given.names.values(), *given.masked) if name not in robot.cameras]
    if unknown:
        raise UsageError(f"`--camera-map` names `{unknown[0]}`, which is no camera", **sides, hint=_HOW)
    pairs = [(given.names.get(name, name), name) for name in episodes.cameras if name not in given.left_out]
    try:
        twice = [camera for camera, _ in pairs if [one for one, _ in pairs].count(camera) > 1]
        if twice:
            raise UsageError(f"two cameras are `{twice[0]}`", hint=_HOW)
        found = sorted_cameras(dict(pairs), robot.cameras, robot.renames)
    except UsageError as error:
        why = error.message if pairs else "the data set has no camera"
        hint = f"{_HOW}; --camera-map NAME-IN-DATA= leaves one out"
        raise UsageError(
            f"{why}: say which of the data set is which of the policy", **sides, hint=hint
        ) from None
    lost = [name for name in robot.cameras if name not in found and name not in given.masked]
    lost = [name for name in lost if not name.startswith(_EMPTY)]
    if lost:
        masked = " ".join(f"--camera-map ={name}" for name in lost)
        raise UsageError(
            f"the data set has no image of {listed(lost)}",
            **sides,
            hint=f"{_HOW}; or {masked}, to mask what the robot does not have, as `act` does",
        )
    return {name: camera for camera, name in found.items()}


def _check_widths(policy: PolicyFacts, source: str, d_state: int, d_action: int) -> None:
    """Refuses states and actions of another width than the policy and its statistics are of.

    Raises:
        UsageError: they are.
    """
    robot = policy.robot
    statistics = robot.statistics
    for what, width, most, scale in (
        ("state", d_state, robot.state_width, statistics.state if statistics else None),
        ("action", d_action, robot.inputs.d_action, statistics.actions if statistics else None),
    ):
        if width > most:
            raise UsageError(
                f"the {what} of the data set has {width} numbers, the policy takes at most {most}",
                data=source,
                hint="train a policy that was made with more, or leave numbers out of the data set",
            )
        if scale and not _fits(scale, width):
            raise UsageError(
                f"the statistics of the checkpoint are of {count_of(scale.width, f'{what} number')}, "
                f"the data set has {width}",
                data=source,
                statistics=statistics.source if statistics else None,
                hint="`dovetail data FOLDER --policy CKPT` compares; `--statistics data` measures new ones",
            )


def _fits(scale: Scale, width: int) -> bool:
    """Whether a scale is of so many numbers, or of more that are padding: openpi's are padded with zeros."""
    return scale.width == width or (
        scale.width > width
        and all(not np.any(values[width:]) for values in scale.said.values() if len(values) == scale.width)
    )


def camera_map(texts: Sequence[str]) -> CameraMap:
    """The map of repeated `--camera-map NAME=CAMERA`.

    Raises:
        UsageError: a text is none.

    >>> camera_map(["top=base_0_rgb", "side=", "=right_wrist_0_rgb"])
    CameraMap(names={'top': 'base_0_rgb'}, left_out=('side',), masked=('right_wrist_0_rgb',))
    """
    names: dict[str, str] = {}
    left_out: list[str] = []
    masked: list[str] = []
    for text in texts:
        name, sign, camera = text.partition("=")
        if not sign or not (name or camera) or name in names:
            raise UsageError(f"`--camera-map {text}` maps nothing", hint=_HOW)
        if not name:
            masked.append(camera)
        elif not camera:
            left_out.append(name)
        else:
            names[name] = camera
    return CameraMap(names, tuple(left_out), tuple(masked))
