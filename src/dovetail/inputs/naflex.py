"""SigLIP2 NaFlex's pixels: an image as large as its patches may be many, in its own shape, as patches.

Sources: transformers@5.23.0 `models/siglip2/image_processing_pil_siglip2.py`; arXiv:2502.14786 sec. 2.4.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from dovetail.inputs.images import decoded, normalize, resize
from dovetail.inputs.processor import ImageProcessor

STEP = 1e-5  # how finely the scale is searched for


class FlexPatches(NamedTuple):
    """The patches of one image, row after row, each flattened (row, column, channel), and their grid."""

    values: Float32[np.ndarray, "p values"]
    grid: tuple[int, int]


def flexible_size(height: int, width: int, *, patch: int, most: int) -> tuple[int, int]:
    """The (height, width) of an image in whole patches, at the largest scale with at most `most` of them.

    >>> flexible_size(480, 640, patch=16, most=256)
    (224, 288)
    """

    def grid(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(edge * scale / patch)) for edge in (height, width))
        return rows, columns

    low, high = STEP / 10, 100.0
    while high - low >= STEP:
        middle = (low + high) / 2
        if math.prod(grid(middle)) <= most:
            low = middle
        else:
            high = middle
    rows, columns = grid(low)
    return rows * patch, columns * patch


def flexible_patches(image: np.ndarray, processor: ImageProcessor, *, patch: int, most: int) -> FlexPatches:
    """The image resized to whole patches, and cut.

    Raises:
        UsageError: the image is not decoded, or the processor resizes no images.
    """
    size = flexible_size(*decoded(image).shape[:2], patch=patch, most=most)
    pixels = normalize(resize(image, size, filter=processor.filter), processor.normalization)
    rows, columns = size[0] // patch, size[1] // patch
    cut = pixels.reshape(3, rows, patch, columns, patch).transpose(1, 3, 2, 4, 0)
    return FlexPatches(cut.reshape(rows * columns, -1), (rows, columns))
