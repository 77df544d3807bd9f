"""PaliGemma's inputs: images squeezed to the tower's square; which tokens follow the prompt.

The prompt, images and all, is one block in which every token sees every other. What follows it is causal, so
the model is told which tokens are its suffix.

Sources: arXiv:2407.07726 sec. 3.1; those of `images.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dovetail.inputs.images import Pixels
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.placeholders import expand
from dovetail.inputs.processor import Squares
from dovetail.inputs.rows import pad_rows
from dovetail.inputs.values import Values


class PaliGemmaInputs(LanguageInputs):
    """Resizes images, expands placeholders and pads rows."""

    sees_prompt_whole = True

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.square = Squares(values)

    def num_features(self, height: int, width: int) -> int:
        return self.square.num_patches

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        assert self.image_token is not None
        return expand(row, self.image_token, [self.square.num_patches] * len(sizes))

    def more(self, batch: Batch) -> Arrays:
        """Which tokens follow the prompt, and the pixels of all images."""
        marks = [
            [0] * (len(row) - len(suffix)) + [1] * len(suffix)
            for row, suffix in zip(batch.rows, batch.suffixes, strict=True)
        ]
        arrays = {"suffix": pad_rows(marks, side=batch.pad)[0].astype(bool)}
        if pixels := [self.pixels(image) for of in batch.images for image in of]:
            arrays["pixels"] = np.stack(pixels)
        return arrays

    def pixels(self, image: Any) -> Pixels:
        """The square that an image becomes, by default squeezed.

        Raises:
            UsageError: it is not decoded.
        """
        return self.square(image)
