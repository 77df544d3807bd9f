"""What training needs of a model: one loss, and the parameters that it cannot reach.

    loss = model.loss(inputs, targets)        a number to call `backward` on
    model.unreachable                         {parameter: why no loss moves it}

The call is the same for a language model, whose targets are token ids, and for a policy, whose targets are
actions. `num_items_in_batch` is what the Trainer of transformers passes: how many targets count in all the
batches whose gradients are added up, so that the sum over those batches is the mean over all targets.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.rows import IGNORED
from dovetail.models.stream import Columns

Count = int | Tensor


class Trainable(nn.Module, ABC):
    """A model with a loss.

    `unreached` has patterns of the parameters that no loss reaches, each with the reason; a model says them
    where it is built.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreached: dict[str, str] = {}

    @abstractmethod
    def loss(
        self, inputs: dict[str, Any], targets: Tensor, *, num_items_in_batch: Count | None = None
    ) -> Float[Tensor, ""]:
        """The mean loss over all targets that count, or their sum over `num_items_in_batch`."""

    @property
    def unreachable(self) -> dict[str, str]:
        """The parameters that no loss reaches, whatever the batch, and why. They need no optimizer."""
        return {
            name: why
            for name, _ in self.named_parameters()
            for pattern, why in self.unreached.items()
            if fnmatchcase(name, pattern)
        }


def averaged(errors: Float[Tensor, "..."], num_items_in_batch: Count | None) -> Float[Tensor, ""]:
    """The mean, or the sum over another count. The mean of nothing is 0."""
    count = max(errors.numel(), 1) if num_items_in_batch is None else num_items_in_batch
    return errors.sum() / (count.to(errors.device) if isinstance(count, Tensor) else count)


def one_for_each(targets: Int[Tensor, "rows columns"], columns: Columns) -> Int[Tensor, "b n"]:
    """The targets, if there is one for each token.

    Raises:
        UsageError: there is not.
    """
    if targets.shape != columns.valid.shape:
        raise UsageError(
            "targets are one for each token",
            expected=str(tuple(columns.valid.shape)),
            found=str(tuple(targets.shape)),
            hint=f"take inputs['tokens'], with {IGNORED} where nothing is learnt: images, prompt, padding",
        )
    return targets


def predicted(
    targets: Int[Tensor, "rows columns"], columns: Columns
) -> tuple[Bool[Tensor, "b n"], Int[Tensor, " r"]]:
    """The columns that predict a target, which are those before it, and the targets.

    Padding neither predicts nor is predicted, whatever its targets are; nor is the first token of a sequence
    predicted by the last one of another before it in the same row.

    Raises:
        UsageError: there is not one target for each token.
    """
    valid, sequence = columns.valid, columns.sequence
    one_for_each(targets, columns)
    following = F.pad(targets[:, 1:], (0, 1), value=IGNORED)
    counts = (following != IGNORED) & valid & F.pad(valid[:, 1:], (0, 1))
    if sequence is not None:
        counts &= sequence == F.pad(sequence[:, 1:], (0, 1), value=-1)
    return counts, following[counts]


def cross_entropy(scores: Float[Tensor, "r v"], targets: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
    """The cross-entropy of each row, in float32 or wider.

    Raises:
        UsageError: a target is outside the vocabulary.
    """
    wrong = targets[(targets < 0) | (targets >= scores.shape[1])]
    if len(wrong):
        raise UsageError(
            f"target {int(wrong[0])} is outside the vocabulary of {scores.shape[1]}",
            hint=f"columns that do not count have the target {IGNORED}",
        )
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return F.cross_entropy(wide, targets, reduction="none")


def drawn_times(rows: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, " b"]:
    """Times to train a policy at: 0.999 x + 0.001, x drawn from Beta(1.5, 1), more of them near noise.

    The distribution function of x is x^1.5. Source: openpi@15a9616 `pi0_pytorch.py:sample_time`.
    """
    place = generator.device if generator else device
    share = torch.rand(rows, generator=generator, device=place).to(device)
    return share ** (1 / 1.5) * 0.999 + 0.001


def drawn_noise(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "..."]:
    """Numbers from the normal distribution, drawn where the generator is."""
    place = generator.device if generator else device
    return torch.randn(tuple(shape), generator=generator, device=place).to(device)
