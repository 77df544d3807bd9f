"""The module that the Trainer of transformers sees: a model of dovetail's and its loss.

    module = TrainingModule(dovetail.load(CKPT))
    module(inputs=..., targets=...)["loss"].backward()

A batch is `{"targets": ..., "inputs": {name: tensor}}`, for a language model and for a policy alike: the
model's own `loss` says what targets are. The model itself is `module.model`, and is what is saved.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.inputs.rows import IGNORED
from dovetail.models.language import LanguageModel
from dovetail.models.trainable import Count, Trainable
from dovetail.train import checkpointing
from dovetail.train.draws import draws
from dovetail.train.scores import row_scores

Batch = Mapping[str, Any]


class TrainingModule(nn.Module):
    """A model whose `forward` gives its loss. `settings` go to every call of it (`is_packed=True`).

    Parameters that no loss reaches (`model.unreachable`) want no gradient from here on: neither an optimizer
    nor DistributedDataParallel may wait for them.

    Raises:
        UsageError: the model has no loss.
    """

    accepts_loss_kwargs = True  # the Trainer then passes `num_items_in_batch`, and does not scale again

    def __init__(self, model: nn.Module, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(model, Trainable):
            raise UsageError(
                f"a {type(model).__name__} has no loss: there is nothing to train it by",
                hint="language models and policies have one; `dovetail families` lists them",
            )
        self.model = model
        self.settings = dict(settings or {})
        self.seed, self.step = 0, 0  # what noise is drawn from, beside the number of a sample
        for name in model.unreachable:
            model.get_parameter(name).requires_grad_(False)

    def forward(
        self,
        inputs: dict[str, Any],
        targets: Tensor,
        num_items_in_batch: Count | None = None,
        *,
        is_scored: bool = False,
        counts: Tensor | None = None,
        samples: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss; with `is_scored`, what evaluation counts instead (`scores`).

        Of a policy, `counts` says which numbers of the actions count, and noise and times are drawn from the
        numbers of the `samples` (`draws.py`).
        """
        if is_scored:
            return self.scores(inputs, targets, counts, samples)
        more = self._policy_settings(targets, counts, samples, self.step)
        return {"loss": self.model.loss(inputs, targets, num_items_in_batch=num_items_in_batch, **more)}

    def _policy_settings(
        self, targets: Tensor, counts: Tensor | None, samples: Tensor | None, step: int
    ) -> dict[str, Any]:
        """What else goes to the loss."""
        found = dict(self.settings)
        if counts is not None:
            found["counts"] = counts
        if samples is not None:
            found["noise"], found["t"] = draws(samples, targets.shape[1:], seed=self.seed, step=step)
        return found

    @torch.no_grad()
    def scores(
        self,
        inputs: dict[str, Any],
        targets: Tensor,
        counts: Tensor | None = None,
        samples: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sums over a batch: `loss` over `items`, and of a language model `right` among the items, `exact`
        among the `rows` with an answer.

        Right is a token that the model finds most likely after the true ones before it (teacher forcing),
        exact a row all of whose tokens are.
        """
        items = num_items({"inputs": inputs, "targets": targets, "counts": counts})
        if not isinstance(self.model, LanguageModel):
            more = self._policy_settings(targets, counts, samples, step=0)
            loss = self.model.loss(inputs, targets, num_items_in_batch=1, **more)
            return {"loss": loss, "items": torch.tensor(items, device=loss.device)}
        found = row_scores(self.model, inputs, targets)
        is_asked = found.items > 0
        return {
            "loss": found.loss.sum(),
            "items": found.items.sum(),
            "right": found.right.sum(),
            "rows": is_asked.sum(),
            "exact": (is_asked & (found.right == found.items)).sum(),
        }

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """What the Trainer calls under `--gradient_checkpointing`.

        Raises:
            UsageError: what blocks keep shall lie elsewhere.
        """
        if offload:
            raise UsageError(
                "activations are not kept on another device here",
                hint="leave `offload` out: they are recomputed",
            )
        checkpointing.enable(self.model, every=every_n_layers, **(activation_checkpointing_kwargs or {}))

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """The same, as older Trainers call it."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Takes it back."""
        checkpointing.disable(self.model)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks compute again on the way back."""
        return checkpointing.is_enabled(self.model)


def num_items(batch: Batch) -> int:
    """How many targets of a batch count: tokens that are predicted, or numbers of the actions.

    The first token of a row is predicted by nothing. This is what `Trainable.loss` takes the mean over.
    """
    targets = batch["targets"]
    if batch.get("counts") is not None:
        return int(batch["counts"].sum())
    if targets.is_floating_point():
        return int(targets.numel())
    counts = targets[:, 1:] != IGNORED
    valid = batch["inputs"].get("valid")
    if valid is not None:
        counts = counts & valid[:, 1:].bool() & valid[:, :-1].bool()
    return int(counts.sum())
