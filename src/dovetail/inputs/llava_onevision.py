"""LLaVA-OneVision's inputs: the tiles of one image, several images as wholes, the frames of videos.

    one image in a row    the whole image, then its tiles; a newline after each row of the grid (anyres.py)
    several               each as a whole, one newline after it
    a video               its frames, pooled; one newline at the very end

Sources: arXiv:2408.03326; those of `tiles.py` and `anyres.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.errors import UsageError
from dovetail.inputs.anyres import Grid, grid_of, most_tiles
from dovetail.inputs.images import normalize, resize
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.placeholders import expand
from dovetail.inputs.processor import ImageProcessor
from dovetail.inputs.square import Square
from dovetail.inputs.tiles import square, tiles
from dovetail.inputs.values import Values, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class TileConfig:
    """How images are cut into tiles."""

    grid_pinpoints: tuple[tuple[int, int], ...]
    aspect_ratio: str


class LlavaOnevisionInputs(LanguageInputs):
    """Cuts images into views, expands placeholders and pads rows. Takes videos: uint8, frames x height x
    width x 3, with the video placeholder."""

    takes_videos = True

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.config = fill(TileConfig, values)
        self.processor = fill(ImageProcessor, values)
        self.square = fill(Square, values, "vision")

    @property
    def pixels(self) -> int:
        """The edge of a view: the tower's, or what all resolutions are multiples of where the tower has as
        many patches in it. LLaVA-NeXT says only the resolutions: 384, of which 27 patches cover 378."""
        own, patch = self.square.pixels, self.square.patch
        common = math.gcd(*(edge for resolution in self.config.grid_pinpoints for edge in resolution))
        return common if common % own and common // patch == own // patch else own

    @property
    def edge(self) -> int:
        """The patches of a view each way."""
        return self.pixels // self.square.patch

    def grid(self, height: int, width: int) -> Grid:
        """The grid of the tiles of an image.

        Raises:
            UsageError: the resolutions are no whole numbers of tiles.
        """
        for resolution in self.config.grid_pinpoints:
            if any(edge % self.pixels for edge in resolution):
                raise UsageError(
                    f"no whole number of tiles of {self.pixels} pixels covers {list(resolution)}",
                    hint="grid_pinpoints must be multiples of the tower's image_size",
                )
        return grid_of(
            height,
            width,
            resolutions=self.config.grid_pinpoints,
            pixels=self.pixels,
            edge=self.edge,
            most=most_tiles(self.config.aspect_ratio),
        )

    def num_features(self, height: int, width: int) -> int:
        return self.edge**2 + self.grid(height, width).num_features

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        assert self.image_token is not None
        assert self.video_token is not None
        stills = [size for size in sizes if len(size) == 2]
        counts = [self.num_features(*size) if len(stills) == 1 else self.edge**2 + 1 for size in stills]
        half = math.ceil(self.edge / 2)
        lengths = [size[0] * half**2 + 1 for size in sizes if len(size) == 3]
        return expand(expand(row, self.image_token, counts), self.video_token, lengths)

    def more(self, batch: Batch) -> Arrays:
        """The views of all images with their sizes, (0, 0) for one of several; the frames of all videos."""
        views: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        for of in batch.images:
            stills = [image for image in of if image.ndim == 3]
            is_single = len(stills) == 1
            views += [self._views(image, is_single) for image in stills]
            sizes += [(image.shape[0], image.shape[1]) if is_single else (0, 0) for image in stills]
        frames = [self._frames(video) for of in batch.images for video in of if video.ndim == 4]
        arrays: Arrays = {}
        if views:
            arrays["pixels"] = np.concatenate(views)
            arrays["sizes"] = np.array(sizes, np.int64)
        if frames:
            arrays["frames"] = np.concatenate(frames)
            arrays["lengths"] = np.array([len(one) for one in frames], np.int64)
        return arrays

    def _views(self, image: Any, is_single: bool) -> np.ndarray:
        """The whole image and its tiles; of several images only the whole."""
        size, statistics, filter = self.pixels, self.processor.normalization, self.processor.filter
        if is_single:
            resolutions = self.config.grid_pinpoints
            return tiles(image, size, resolutions=resolutions, statistics=statistics, filter=filter)
        return square(image, size, statistics=statistics, filter=filter, color=self.processor.color)

    def _frames(self, video: Any) -> np.ndarray:
        """The frames of a video, squeezed to squares."""
        size, statistics, filter = (
            (self.pixels, self.pixels),
            self.processor.normalization,
            self.processor.filter,
        )
        return np.stack([normalize(resize(frame, size, filter=filter), statistics) for frame in video])
