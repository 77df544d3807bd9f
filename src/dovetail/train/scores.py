"""How well a model foretells the targets of a batch when told all before them (teacher forcing)."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from dovetail.models.language import LanguageModel
from dovetail.models.trainable import cross_entropy, predicted


class RowScores(NamedTuple):
    """Of each row: the summed loss of its targets, how many there are, and how many of them the model finds
    most likely."""

    loss: Float32[Tensor, " rows"]
    items: Int64[Tensor, " rows"]
    right: Int64[Tensor, " rows"]


@torch.no_grad()
def row_scores(model: LanguageModel, inputs: dict[str, Any], targets: Tensor) -> RowScores:
    """The scores of a batch, row by row. Targets are those of `LanguageModel.loss`.

    Raises:
        UsageError: there is not one target for each token, or one is outside the vocabulary.
    """
    stream = model.embed(**inputs)
    counts, wanted = predicted(targets.to(stream.x.device), stream.columns)
    found = model.logits(model.hidden(stream)[counts][None])[0]
    row = counts.nonzero()[:, 0]

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(len(counts)).index_add_(0, row, values)

    return RowScores(
        summed(cross_entropy(found, wanted)),
        summed(torch.ones_like(wanted)),
        summed((found.argmax(dim=-1) == wanted).long()),
    )
