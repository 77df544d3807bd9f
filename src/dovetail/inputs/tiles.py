"""LLaVA-OneVision's pixels: the whole image once, then tiles of it at the resolution that fits it best.

Sources: transformers@5.23.0 `models/llava_onevision/image_processing_pil_llava_onevision.py`,
`image_processing_utils.py:select_best_resolution`; arXiv:2408.03326 sec. 3.2 ("anyres").
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32
from PIL import Image as Pillow

from dovetail.inputs.images import (
    BICUBIC,
    BLACK,
    HALF,
    Color,
    Image,
    Normalization,
    decoded,
    normalize,
    pad,
    resize,
)


def pinpoints(size: int, *, most: int = 6) -> tuple[tuple[int, int], ...]:
    """The (height, width) that tiles may cover: 1 to `most` tiles each way."""
    edges = [size * count for count in range(1, most + 1)]
    return tuple((height, width) for height in edges for width in edges)


def best_resolution(height: int, width: int, *, resolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution that keeps most of the image's own pixels, of those the one with least to pad.

    >>> best_resolution(1080, 1920, resolutions=pinpoints(384))
    (1152, 1920)
    """

    def merit(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=merit)


def tiles(
    image: np.ndarray,
    size: int,
    *,
    resolutions: Sequence[tuple[int, int]],
    statistics: Normalization = HALF,
    filter: Pillow.Resampling = BICUBIC,
) -> Float32[np.ndarray, "tiles 3 size size"]:
    """The image squeezed to a square, then its tiles row by row, black where it does not reach.

    Raises:
        UsageError: the image is not decoded.
    """
    whole = resize(decoded(image), (size, size), filter=filter)
    target = best_resolution(*image.shape[:2], resolutions=resolutions)
    fitted = fit(image, target, filter=filter)
    cut = [
        fitted[top : top + size, left : left + size]
        for top in range(0, target[0], size)
        for left in range(0, target[1], size)
    ]
    return np.stack([normalize(view, statistics) for view in (whole, *cut)])


def fit(image: Image, target: tuple[int, int], *, filter: Pillow.Resampling = BICUBIC) -> Image:
    """The image as large as (height, width) lets it be, centred on black; an odd row or column goes after."""
    height, width = image.shape[:2]
    scale_height, scale_width = target[0] / height, target[1] / width
    if scale_width < scale_height:
        inner = min(math.ceil(height * scale_width), target[0]), target[1]
    else:
        inner = target[0], min(math.ceil(width * scale_height), target[1])
    rows, columns = target[0] - inner[0], target[1] - inner[1]
    return pad(
        resize(image, inner, filter=filter),
        vertical=(rows // 2, rows - rows // 2),
        horizontal=(columns // 2, columns - columns // 2),
        color=BLACK,
    )


def square(
    image: np.ndarray,
    size: int,
    *,
    color: Color = HALF.color,
    statistics: Normalization = HALF,
    filter: Pillow.Resampling = BICUBIC,
) -> Float32[np.ndarray, "1 3 size size"]:
    """One image of several: padded to a square with a colour, the mean's, then resized; no tiles.

    Raises:
        UsageError: the image is not decoded.
    """
    height, width = decoded(image).shape[:2]
    edge = max(height, width)
    top, left = (edge - height) // 2, (edge - width) // 2
    padded = pad(
        image,
        vertical=(top, edge - height - top),
        horizontal=(left, edge - width - left),
        color=color,
    )
    return normalize(resize(padded, (size, size), filter=filter), statistics)[None]
