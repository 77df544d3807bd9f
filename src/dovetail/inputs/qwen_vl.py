"""The inputs of the Qwen-VL families: images at a size of their own, cut into patches, and three positions
for every token.

What the families do differently with images is declared: patches, areas, means. Sources: those of
`patches.py` and `mrope.py`. Padding takes position 0 here and 1 in transformers 4: nobody sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from dovetail.errors import UsageError
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.mrope import Grid, mrope_positions
from dovetail.inputs.patches import Patches, patches, smart_resize
from dovetail.inputs.placeholders import expand
from dovetail.inputs.processor import ImageProcessor
from dovetail.inputs.values import Values, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaConfig:
    """The area in pixels that images are resized to."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """The sizes of a patch."""

    patch: int
    frames: int


class QwenVLInputs(LanguageInputs):
    """Cuts images into patches, expands placeholders, pads rows and counts positions."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.area = fill(AreaConfig, values)
        self.processor = fill(ImageProcessor, values)
        self.patch = fill(PatchConfig, values, "vision")
        self.merge = isqrt(values.integer("merger.merge_area"))

    def num_features(self, height: int, width: int) -> int:
        frames, rows, columns = self.grid(height, width)
        return frames * rows * columns // self.merge**2

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        if self.video_token in row:
            raise UsageError(
                f"a row holds token {self.video_token}, a video; videos are not written here",
                hint="give frames as images",
            )
        assert self.image_token is not None
        counts = [self.num_features(height, width) for height, width in sizes]
        return expand(row, self.image_token, counts)

    def grid(self, height: int, width: int) -> Grid:
        """The frames, rows and columns of patches of an image.

        Raises:
            UsageError: the image is too long.
        """
        rows, columns = smart_resize(
            height,
            width,
            factor=self.patch.patch * self.merge,
            min_pixels=self.area.min_pixels,
            max_pixels=self.area.max_pixels,
        )
        return 1, rows // self.patch.patch, columns // self.patch.patch

    def more(self, batch: Batch) -> Arrays:
        """Positions, and where there are images their patches and grids."""
        assert self.image_token is not None
        cut = [[self.patches(image) for image in of] for of in batch.images]
        positions = np.zeros((3, *batch.tokens.shape), np.int64)
        for i, (row, of) in enumerate(zip(batch.rows, cut, strict=True)):
            grids = [image.grid for image in of]
            positions[:, i, batch.valid[i]] = mrope_positions(row, grids, self.image_token, self.merge)
        arrays = {"positions": positions}
        if whole := [image for of in cut for image in of]:
            arrays["pixels"] = np.concatenate([image.values for image in whole])
            arrays["grids"] = np.array([image.grid for image in whole], np.int64)
        return arrays

    def patches(self, image: Any) -> Patches:
        """The patches of one image, and their grid."""
        return patches(
            image,
            patch=self.patch.patch,
            frames=self.patch.frames,
            merge=self.merge,
            min_pixels=self.area.min_pixels,
            max_pixels=self.area.max_pixels,
            statistics=self.processor.normalization,
            filter=self.processor.filter,
        )
