"""Positions of Qwen-VL's tokens: three each, for time, height and width (arXiv:2409.12191 sec. 2.1).

In text all three count on together. In an image they count its frames, rows and columns of features, and
text goes on after the largest:

    tokens   a b IMG IMG IMG IMG IMG IMG c        the image has 2 rows of 3 features
    time     0 1   2   2   2   2   2   2 5
    height   0 1   2   2   2   3   3   3 5
    width    0 1   2   3   4   2   3   4 5

Source: transformers@5.23.0 `modeling_{qwen2_vl,qwen2_5_vl,qwen3_vl}.py:get_rope_index`, which are alike for
images.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from dovetail.errors import UsageError

Grid = tuple[int, int, int]  # frames, rows and columns of patches, before they are merged


def mrope_positions(
    row: Sequence[int], grids: Sequence[Grid], image_token: int, merge: int
) -> Int64[np.ndarray, "3 n"]:
    """Time, height and width of every token of an expanded row without padding.

    Raises:
        UsageError: the placeholders of an image do not stand together.
    """
    step = np.ones(len(row), np.int64)  # from a token's position to that of the next
    inside = np.zeros((3, len(row)), np.int64)  # an image's token from the first one of the image
    if grids:
        sizes = np.asarray(grids, np.int64) // (1, merge, merge)
        counts = sizes.prod(axis=1)
        places = np.flatnonzero(np.asarray(row) == image_token)
        ends = counts.cumsum()
        first, last = places[ends - counts], places[ends - 1]
        if (last - first != counts - 1).any():
            raise UsageError(
                "the placeholders of an image do not stand together",
                hint="put the image token once where each image belongs",
            )
        step[places] = 0
        step[last] = sizes.max(axis=1)
        index = np.arange(len(places)) - np.repeat(ends - counts, counts)
        _, rows, columns = np.repeat(sizes, counts, axis=0).T
        inside[:, places] = index // (rows * columns), index // columns % rows, index % columns
    return step.cumsum() - step + inside
