"""LLaVA 1.5's inputs: the square in the middle of an image, and the tokens that it becomes.

Sources: those of `images.py:clip_pixels`; transformers@5.23.0 `processing_llava.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.errors import UsageError
from dovetail.inputs.images import Pixels
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.placeholders import expand
from dovetail.inputs.processor import Squares
from dovetail.inputs.values import Values, fill

# what configs call leaving the class token out, and keeping it: how many tokens go
LEFT_OUT = {"default": 1, "patch": 1, "full": 0, "cls_patch": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """Which of the tower's tokens are taken."""

    feature_select: str


class LlavaInputs(LanguageInputs):
    """Cuts the middle out of images, expands placeholders and pads rows."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.select = fill(FeatureConfig, values).feature_select
        if self.select not in LEFT_OUT:
            raise UsageError(
                f"features `{self.select}` are not written here",
                hint=f"known: {', '.join(LEFT_OUT)}",
            )
        self.square = Squares(values)
        self.num_class_tokens = 1 if values.kind("vision") == "clip" else 0

    @property
    def tokens_per_image(self) -> int:
        """How many tokens an image becomes."""
        return self.square.num_patches + self.num_class_tokens - LEFT_OUT[self.select]

    def num_features(self, height: int, width: int) -> int:
        return self.tokens_per_image

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        assert self.image_token is not None
        return expand(row, self.image_token, [self.tokens_per_image] * len(sizes))

    def more(self, batch: Batch) -> Arrays:
        """The pixels of all images."""
        pixels = [self.pixels(image) for of in batch.images for image in of]
        return {"pixels": np.stack(pixels)} if pixels else {}

    def pixels(self, image: Any) -> Pixels:
        """The square that an image becomes, by default the one in its middle.

        Raises:
            UsageError: the image is not decoded.
        """
        return self.square(image)
