"""Values of one size from those of another: position tables of images, and tables of tokens.

Positions of an image are a grid, and a larger grid is the smaller one seen through bicubic
interpolation with a = -0.75, as torch's `interpolate(mode="bicubic", align_corners=False)` has it and as
transformers and big_vision use it. Both changes lose the original: they are only made when asked for.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from dovetail.dtypes import BITS
from dovetail.errors import UsageError
from dovetail.weights.leaf import Leaf

_A = -0.75


def interpolated(leaf: Leaf, positions: int) -> Leaf:
    """A position table of an image (positions, width) for another number of positions.

    Raises:
        UsageError: one of the two numbers is no square.
    """
    old, new = leaf.shape[0], positions
    for number in (old, new):
        if math.isqrt(number) ** 2 != number:
            raise UsageError(
                f"`{leaf.name}` has {old} positions, {new} are wanted: {number} is no square grid",
                hint="only the positions of square images can be interpolated",
            )
    a, b = math.isqrt(old), math.isqrt(new)
    lines = (a + b) * math.prod(leaf.shape[1:])
    return leaf._replace(
        shape=(new, *leaf.shape[1:]),
        make=partial(_interpolate, leaf, a, b),
        source_dtype=leaf.dtype,
        init="interpolated",
        store=None,
        spans=(),
        # the table as it is stored, in a buffer that grew, and a line of either grid as it is reckoned with
        working=leaf.working + leaf.size * 9 // 8 + 32 * lines,
    )


def _interpolate(leaf: Leaf, old: int, new: int) -> Iterator[bytes]:
    """The new grid line by line, each from the four lines of the old one that are near it."""
    import numpy as np

    from dovetail.store.cast import to_bytes, to_numbers

    table = memoryview(leaf.whole())
    size = len(table) // old
    weights = cubic_weights(old, new)
    for near in weights:
        line: Any = 0.0
        for place in np.flatnonzero(near):
            stored = to_numbers(table[place * size : (place + 1) * size], leaf.dtype)
            line = line + near[place] * stored.astype(np.float64)
        yield to_bytes(weights @ line.reshape(old, -1), leaf.dtype)


def cubic_weights(old: int, new: int) -> Any:
    """The matrix (new, old) that takes a line of `old` values to `new` ones."""
    import numpy as np

    places = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        distance = np.abs(places - (first + tap))
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        value = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), value)
    return weights


def resized(leaf: Leaf, fresh: Leaf) -> Leaf:
    """A table of tokens with the rows of `leaf` as far as they go, then those of a fresh one."""
    rows = min(leaf.shape[0], fresh.shape[0])
    return fresh._replace(
        dtype=leaf.dtype,
        source_dtype=leaf.dtype,
        make=partial(_rows, leaf, fresh._replace(dtype=leaf.dtype), rows),
        init="resized",
    )


def _rows(leaf: Leaf, fresh: Leaf, rows: int) -> Iterator[bytes | memoryview]:
    width = leaf.elements // leaf.shape[0]
    if rows < leaf.shape[0]:
        taken = rows * width * BITS[leaf.dtype] // 8
        for block in leaf.plain():
            piece = memoryview(block)[:taken]
            taken -= len(piece)
            yield piece
            if not taken:
                return
    yield from leaf.plain()
    for new in fresh.blocks(rows * width):
        assert isinstance(new, bytes | memoryview)
        yield new
