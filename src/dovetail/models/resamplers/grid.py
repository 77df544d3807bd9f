"""Tokens as the grid of patches they come from, and back.

    b  batch    n  tokens, row after row    d  width

Every resampler guesses the grid from the number of tokens alone, each in its own way.
"""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def to_grid(x: Float[Tensor, "b n d"], rows: int, columns: int) -> Float[Tensor, "b d rows columns"]:
    """The tokens as an image; where they do not fill it, zeros follow."""
    filled = F.pad(x, (0, 0, 0, rows * columns - x.shape[1]))
    return rearrange(filled, "b (rows columns) d -> b d rows columns", rows=rows)


def to_tokens(x: Float[Tensor, "b d rows columns"]) -> Float[Tensor, "b n d"]:
    """An image as tokens, row after row."""
    return rearrange(x, "b d rows columns -> b (rows columns) d")


def square_over(tokens: int) -> tuple[int, int]:
    """The smallest square that holds the tokens.

    >>> square_over(16), square_over(17)
    ((4, 4), (5, 5))
    """
    edge = math.isqrt(tokens - 1) + 1
    return edge, edge


def tallest_over(tokens: int) -> tuple[int, int]:
    """A square, or one row more than its edge and as many columns as hold the tokens.

    >>> tallest_over(16), tallest_over(18), tallest_over(15)
    ((4, 4), (5, 4), (4, 4))
    """
    edge = math.isqrt(tokens)
    if edge * edge == tokens:
        return edge, edge
    return edge + 1, -(-tokens // (edge + 1))


def nearest_factors(tokens: int) -> tuple[int, int]:
    """The two factors nearest to each other, the smaller one first.

    >>> nearest_factors(16), nearest_factors(18), nearest_factors(17)
    ((4, 4), (3, 6), (1, 17))
    """
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows
