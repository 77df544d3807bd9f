"""A vision tower by itself: what embedding images, checking and training need of it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.inputs.towers import TowerInputs
from dovetail.models.arrays import tensors


class TowerModel(nn.Module):
    """A model that is fed images alone."""

    inputs: TowerInputs

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    def prepare(self, images: Iterable[Any] = (), **more: Any) -> dict[str, Tensor]:
        """The inputs for decoded images (uint8, height x width x 3): those of `self.inputs` as tensors.

        Raises:
            UsageError: what `TowerInputs` refuses.
        """
        return tensors(self.inputs(images, **more), self.device)
