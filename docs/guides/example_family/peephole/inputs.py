"""Peephole's inputs: images squeezed to the tower's square; as many tokens for each as there are queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.inputs.images import Pixels
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.placeholders import expand
from dovetail.inputs.processor import Squares
from dovetail.inputs.values import Values, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class QueriesConfig:
    """How many tokens an image becomes."""

    queries: int


class PeepholeInputs(LanguageInputs):
    """Resizes images, expands placeholders and pads rows. Needs no weights."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.square = Squares(values)
        self.queries = fill(QueriesConfig, values, "resampler").queries

    def num_features(self, height: int, width: int) -> int:
        return self.queries

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        assert self.image_token is not None
        return expand(row, self.image_token, [self.queries] * len(sizes))

    def more(self, batch: Batch) -> Arrays:
        """The pixels of all images."""
        pixels = [self.pixels(image) for of in batch.images for image in of]
        return {"pixels": np.stack(pixels)} if pixels else {}

    def pixels(self, image: Any) -> Pixels:
        """The square that an image becomes, by default squeezed."""
        return self.square(image)
