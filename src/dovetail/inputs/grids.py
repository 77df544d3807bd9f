"""The grid that PanoVLM's resamplers and stitching guess from a number of tokens, each in its own way."""

import math


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
