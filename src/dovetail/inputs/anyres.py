"""How many features the tiles of an image give LLaVA-OneVision: "anyres".

The tiles are put together to one grid; rows or columns that are only padding are cut off; a grid of more
than `most` tiles is shrunk; a newline ends every row. The features of the whole image come first.

Sources: arXiv:2408.03326 sec. 3.2; transformers@5.23.0 `modeling_llava_onevision.py:pack_image_features`.
LLaVA-NeXT gives sizes as (width, height); here they are (height, width).
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from dovetail.errors import UsageError
from dovetail.inputs.tiles import best_resolution

SLACK = 1.1  # a grid may be so many times too wide and high before it is shrunk


class Grid(NamedTuple):
    """The features of the tiles of one image: how many tiles, what is cut off, what it is shrunk to."""

    tiles: tuple[int, int]
    cut: tuple[int, int]
    size: tuple[int, int]

    @property
    def num_features(self) -> int:
        """The features of the grid, with a newline at the end of every row."""
        return self.size[0] * (self.size[1] + 1)


def most_tiles(aspect_ratio: str) -> int:
    """The number in `anyres_max_9`.

    Raises:
        UsageError: it is another way to look at images.
    """
    match = re.fullmatch(r"anyres_max_(\d+)", aspect_ratio)
    if match is None:
        raise UsageError(f"aspect_ratio `{aspect_ratio}` is not written here", hint="known: anyres_max_9")
    return int(match[1])


def grid_of(
    height: int, width: int, *, resolutions: Sequence[tuple[int, int]], pixels: int, edge: int, most: int
) -> Grid:
    """The grid of an image; a tile has `pixels` x `pixels` and becomes `edge` x `edge` features."""
    best = best_resolution(height, width, resolutions=resolutions)
    tiles = best[0] // pixels, best[1] // pixels
    rows, columns = tiles[0] * edge, tiles[1] * edge
    cut_rows = cut_columns = 0
    if width / height > columns / rows:
        cut_rows = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        cut_columns = (columns - int(round(width * (rows / height), 7))) // 2
    rows, columns = rows - 2 * cut_rows, columns - 2 * cut_columns
    ratio = math.sqrt(rows * columns / (most * edge**2))
    if ratio > SLACK:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return Grid(tiles, (cut_rows, cut_columns), (rows, columns))
