"""Batches as the Trainer takes them: tensors, targets first. Those of policies say which targets count, and
the numbers of their samples."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dovetail.models.arrays import tensors

Collate = Callable[[list[Any]], Mapping[str, Any]]
_CPU = torch.device("cpu")


class InTensors:
    """A collator whose arrays are tensors. It may be sent to the workers of a data loader.

    Targets come first: accelerate takes the number of rows from the first tensor.
    """

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        batch = self.collate(samples)
        beside = {"targets": batch["targets"]}
        beside |= {name: batch[name] for name in ("counts", "samples") if name in batch}
        return {**tensors(beside, _CPU), "inputs": tensors(batch["inputs"], _CPU)}
