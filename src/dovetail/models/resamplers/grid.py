"""Tokens as the grid of patches they come from, and back.

    b  batch    n  tokens, row after row    d  width

How large the grid is, every resampler guesses in its own way (`dovetail.inputs.grids`).
"""

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
