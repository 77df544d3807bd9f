"""Pixels of the Qwen-VL families: an image at a size of its own, cut into patches in the order of the merger.

Sources: transformers@5.23.0 `models/qwen2_vl/image_processing_pil_qwen2_vl.py`; arXiv:2409.12191 sec. 2.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image as Pillow

from dovetail.errors import UsageError
from dovetail.inputs.images import BICUBIC, CLIP, Normalization, decoded, normalize, resize

MIN_PIXELS = 56 * 56
MAX_PIXELS = 28 * 28 * 1280
MAX_RATIO = 200


class Patches(NamedTuple):
    """The patches of one image, and its grid: frames, rows and columns of patches before merging."""

    values: Float32[np.ndarray, "p values"]
    grid: tuple[int, int, int]


def smart_resize(
    height: int, width: int, *, factor: int = 28, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """The (height, width) that an image gets: multiples of `factor`, the area within its bounds.

    Edges are rounded half to even. At least one `factor` each, even where that is more than `max_pixels`.

    >>> smart_resize(1080, 1920)
    (728, 1316)

    Raises:
        UsageError: one edge is more than 200 times the other, or the bounds are none.
    """
    if not (min_pixels >= 0 < max_pixels):
        raise UsageError(
            "no image has so many pixels",
            expected="0 <= min_pixels, 0 < max_pixels",
            found=f"min_pixels {min_pixels}, max_pixels {max_pixels}",
            hint="--set min_pixels=3136 --set max_pixels=1003520 are Qwen2-VL's",
        )
    if max(height, width) > MAX_RATIO * min(height, width):
        raise UsageError(
            "the image is too long to be cut into patches",
            expected=f"edges in a ratio of at most {MAX_RATIO}",
            found=f"{height} x {width}",
            hint="crop or pad it first",
        )
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def patches(
    image: np.ndarray,
    *,
    patch: int = 14,
    frames: int = 2,
    merge: int = 2,
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
    statistics: Normalization = CLIP,
    filter: Pillow.Resampling = BICUBIC,
) -> Patches:
    """The image as flattened patches (channel, frame, row, column), one merge window after the other.

    A window is `merge` x `merge` neighbours, so that the merger joins consecutive rows. A still image is
    repeated to fill the `frames` that a patch spans.

    Raises:
        UsageError: the image is not decoded, or too long.
    """
    size = smart_resize(
        *decoded(image).shape[:2], factor=patch * merge, min_pixels=min_pixels, max_pixels=max_pixels
    )
    pixels = normalize(resize(image, size, filter=filter), statistics)
    rows, columns = size[0] // patch, size[1] // patch
    cut = pixels.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    ordered = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    repeated = ordered.repeat(frames, axis=5)
    return Patches(repeated.reshape(rows * columns, 3 * frames * patch * patch), (1, rows, columns))
