"""Overlapping views of an equirectangular panorama, as PanoVLM and CORA look at one.

A panorama is 360 degrees wide and 180 high. Views follow each other to the right from its left edge
(`sliding`) or from its middle (`perspective`, `anyres`), each covering `fov` degrees and sharing `overlap`
of them with the one before; the last ones run around the back.

Sources: wooseungw/panollava@48559af `src/cora/processors/{images,anyres_e2p}.py` (`sliding_window`, `e2p`,
`anyres_e2p`); gnomonic projection: Snyder, Map Projections (USGS PP 1395), sec. 22.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from dovetail.errors import UsageError
from dovetail.inputs.images import (
    BLACK,
    HALF,
    LANCZOS,
    Image,
    decoded,
    interpolate,
    normalize,
    pad,
    resize,
)

Views = Float32[np.ndarray, "views 3 height width"]

KEPT = 0.9  # of a perspective view's height: the rows at the edges are stretched most
WHOLE, TILE = 336, 672  # edges at which `anyres` draws the panorama and its views
REACH = 90.0  # degrees of latitude that the views of `anyres` cover


def num_views(fov: float, overlap: float) -> int:
    """How many views go around.

    >>> num_views(90.0, 0.5)
    8

    Raises:
        UsageError: the field of view or the overlap is out of range.
    """
    if not 0 < fov <= 360 or not 0 <= overlap < 1:
        raise UsageError(
            f"no views of {fov} degrees overlap by {overlap}", hint="0 < fov <= 360, 0 <= overlap < 1"
        )
    return math.ceil(360 / (fov * (1 - overlap)))


def squeezed(views: Sequence[Image], size: tuple[int, int]) -> Views:
    """Views at (height, width), their aspect ratios ignored."""
    return np.stack([normalize(resize(view, size, filter=LANCZOS), HALF) for view in views])


def whole(
    panorama: np.ndarray,
    size: tuple[int, int],
    *,
    fov: float = 360.0,
    overlap: float = 0.0,
) -> Views:
    """One view of everything, squeezed; `fov` and `overlap` do not matter.

    Raises:
        UsageError: the panorama is not decoded.
    """
    return squeezed([decoded(panorama)], size)


def sliding(
    panorama: np.ndarray,
    size: tuple[int, int],
    *,
    fov: float = 90.0,
    overlap: float = 0.5,
) -> Views:
    """Windows cut out of the panorama as it is, without a twelfth at the top and one at the bottom.

    Raises:
        UsageError: the panorama is not decoded, or there are no such views.
    """
    height, width = decoded(panorama).shape[:2]
    window = int(width * fov / 360)
    step = int(window * (1 - overlap))
    rows = slice(height // 12, height - height // 12)
    cut = [
        panorama[rows, (np.arange(window) + step * view) % width] for view in range(num_views(fov, overlap))
    ]
    return squeezed(cut, size)


def perspective(
    panorama: np.ndarray,
    size: tuple[int, int],
    *,
    fov: float = 90.0,
    overlap: float = 0.5,
) -> Views:
    """What cameras in the panorama's centre see, looking at the horizon; the first straight ahead.

    Raises:
        UsageError: the panorama is not decoded, or there are no such views.
    """
    count = num_views(fov, overlap)
    if fov >= 180:
        raise UsageError(f"no camera sees {fov} degrees", hint="give a field of view below 180")
    yaws = [view * fov * (1 - overlap) for view in range(count)]
    cut = int(size[0] * (1 - KEPT) / 2)
    views = [project(decoded(panorama), size, fov=fov, yaw=yaw)[cut : size[0] - cut] for yaw in yaws]
    return squeezed(views, size)


def anyres(
    panorama: np.ndarray,
    size: tuple[int, int],
    *,
    fov: float = 90.0,
    overlap: float = 0.5,
) -> Views:
    """The whole panorama on black, then what cameras see, evenly around, in rows between 45 degrees down
    and 45 up; all drawn larger and then shrunk without antialiasing.

    Raises:
        UsageError: the panorama is not decoded, or there are no such views.
    """
    height, width = decoded(panorama).shape[:2]
    count = num_views(fov, overlap)
    pitches = [-45 + fov / 2 + fov * (1 - overlap) * row for row in range(_rows(fov, overlap))]
    scale = WHOLE / max(height, width)
    inner = resize(panorama, (round(height * scale), round(width * scale)))
    gaps = [(WHOLE - edge) // 2 for edge in inner.shape[:2]]
    rows, columns = ((gap, WHOLE - edge - gap) for gap, edge in zip(gaps, inner.shape[:2], strict=True))
    views = [pad(inner, vertical=rows, horizontal=columns, color=BLACK)]
    for pitch in pitches:
        for view in range(count):
            views.append(project(panorama, (TILE, TILE), fov=fov, yaw=360 / count * view, pitch=pitch))
    return np.stack([interpolate(normalize(view, HALF), size) for view in views])


def num_anyres(fov: float, overlap: float) -> int:
    """How many views `anyres` cuts, the whole panorama among them.

    >>> num_anyres(90.0, 0.5)
    9

    Raises:
        UsageError: the field of view or the overlap is out of range.
    """
    return 1 + num_views(fov, overlap) * _rows(fov, overlap)


def _rows(fov: float, overlap: float) -> int:
    if fov > REACH:
        raise UsageError(
            f"no view of {fov} degrees lies within {REACH}", hint="give a field of view up to it"
        )
    return int((REACH - fov) / (fov * (1 - overlap)) + 1e-9) + 1


def project(panorama: Image, size: tuple[int, int], *, fov: float, yaw: float, pitch: float = 0.0) -> Image:
    """A camera's picture, `fov` degrees both ways, looking `yaw` degrees to the right of the panorama's
    middle and `pitch` degrees up."""
    reach = math.tan(math.radians(fov) / 2)
    above = np.linspace(reach, -reach, size[0])[:, None]
    right = np.linspace(-reach, reach, size[1])[None, :]
    sine, cosine = math.sin(math.radians(pitch)), math.cos(math.radians(pitch))
    ahead, up = cosine - sine * above, sine + cosine * above
    longitude = np.arctan2(right, ahead) + math.radians(yaw)
    latitude = np.arctan2(up, np.hypot(ahead, right))
    height, width = panorama.shape[:2]
    row = (0.5 - latitude / math.pi) * height - 0.5
    column = (0.5 + longitude / (2 * math.pi)) * width - 0.5
    return _sample(panorama, row, np.broadcast_to(column, row.shape))


def _sample(panorama: Image, row: np.ndarray, column: np.ndarray) -> Image:
    """Bilinear; columns run around, rows stop at the poles."""
    height, width = panorama.shape[:2]
    top, left = np.floor(row), np.floor(column)
    down, across = (row - top)[:, :, None], (column - left)[:, :, None]
    rows = [np.clip(top + step, 0, height - 1).astype(np.int64) for step in (0, 1)]
    columns = [(left + step).astype(np.int64) % width for step in (0, 1)]
    above, below = (
        panorama[one, columns[0]] * (1 - across) + panorama[one, columns[1]] * across for one in rows
    )
    seen: Image = np.rint(above * (1 - down) + below * down).astype(np.uint8)
    return seen
