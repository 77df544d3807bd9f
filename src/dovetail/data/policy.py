"""What data of a robot are learned with: the inputs of a policy, of its header and the files beside it.

    policy = read_policy("pi0_base")
    policy.robot, policy.layout, policy.horizon

Which numbers of an action count in the loss, each trainer decides otherwise:

    layout         columns behind the robot's    steps past the end of an episode
    openpi         count, towards 0              count, the last action again
    lerobot        do not                        count
    lerobot-0.3    count                         do not
    transformers   as openpi: its loss is the mean over all, and it has no data loader

Sources: openpi@15a9616 `scripts/train_pytorch.py` (the mean of all losses); lerobot@v0.4.4
`policies/pi0/modeling_pi0.py:forward` (cuts to `output_features`; never reads `action_is_pad`), @v0.3.3 the
same (weighs by `action_is_pad`, then divides by all); transformers@5.23.0 `modeling_pi0.py`.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.errors import UsageError
from dovetail.inputs import build
from dovetail.inputs.policy import PolicyInputs
from dovetail.inputs.robot import RobotInputs, read_robot
from dovetail.inputs.statistics import MeanStd, Statistics, statistics_at, statistics_of_weights
from dovetail.inputs.tokenizer import tokenizer_at
from dovetail.inputs.values import values_of
from dovetail.store.cast import to_numbers

Padding = Literal["auto", "learn", "skip"]


class Counting(NamedTuple):
    """Which numbers of a chunk count: the columns behind the robot's, and the steps past an episode's end."""

    columns: bool
    past: bool
    why: str

    def __str__(self) -> str:
        columns = (
            "columns behind the robot's count" if self.columns else "columns behind the robot's do not count"
        )
        past = "steps past the end of an episode count" if self.past else "steps past the end do not"
        return f"{columns}, {past} ({self.why})"


_AS_TRAINED = {
    "openpi": Counting(columns=True, past=True, why="as openpi"),
    "lerobot": Counting(columns=False, past=True, why="as lerobot 0.4 and later"),
    "lerobot-0.3": Counting(columns=True, past=False, why="as lerobot 0.1-0.3"),
    "transformers": Counting(columns=True, past=True, why="as transformers, whose loss is the mean over all"),
}


def counting(layout: str, padding: Padding = "auto") -> Counting:
    """Which numbers count for a checkpoint of a layout: as its own trainer has it, all, or the robot's alone.

    >>> counting("lerobot").columns, counting("openpi", "skip").columns
    (False, False)
    """
    if padding == "learn":
        return Counting(columns=True, past=True, why="--padding learn")
    if padding == "skip":
        return Counting(columns=False, past=False, why="--padding skip")
    return _AS_TRAINED.get(layout) or _AS_TRAINED["transformers"]


class PolicyFacts(NamedTuple):
    """A policy without its weights: what makes its inputs, the layout that it is in, the steps of a chunk."""

    robot: RobotInputs
    layout: str
    horizon: int


def read_policy(
    checkpoint: Path,
    *,
    tokenizer: Path | None = None,
    statistics: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
) -> PolicyFacts:
    """A policy's inputs with what lies beside its weights; `tokenizer` and `statistics` take its place.

    `settings`, `as_` and `trust` are those of `load`.

    Raises:
        UsageError: the checkpoint is of a family that does not act.
        CheckpointError: it is damaged, or what lies beside it cannot be read.
    """
    with opened(checkpoint, as_=as_, given=settings, trust=trust) as found:
        inputs = build(values_of(found))
        if not isinstance(inputs, PolicyInputs):
            raise UsageError(
                f"{found.family.id} does not act: data of robots are for policies",
                checkpoint=str(checkpoint),
                hint="pi0 and pi05 are policies; language models learn from manifests of conversations",
            )
        given = None if statistics is None else statistics_at(statistics, is_quantiles=inputs.is_state_text)
        robot = read_robot(
            found.store,
            inputs,
            tokenizer=None if tokenizer is None else tokenizer_at(tokenizer),
            statistics=given or _among_weights(found),
        )
        return PolicyFacts(robot, str(found.report.layout), inputs.horizon)


def _among_weights(checkpoint: Checkpoint) -> Statistics | None:
    """The statistics that a policy keeps among its weights, None if it keeps none."""
    if "normalizer.state_in.mean" not in checkpoint.leaves:
        return None
    state, actions = (
        MeanStd(*(_numbers(checkpoint, f"normalizer.{where}.{what}") for what in ("mean", "std")))
        for where in ("state_in", "action_out")
    )
    return statistics_of_weights(state, actions)


def _numbers(checkpoint: Checkpoint, name: str) -> np.ndarray:
    leaf = checkpoint.leaves[name]
    return to_numbers(bytes(leaf.whole()), leaf.dtype).astype(np.float64)
