"""Who may look at whom, as data.

Every token carries a block number. A query sees the keys of its own block and of earlier blocks, if
they are not padding:

    causal       blocks 0 1 2 3 4      prefix, then causal   blocks 0 0 0 1 2
                 x . . . .                                   x x x . .
                 x x . . .                                   x x x . .
                 x x x . .                                   x x x . .
                 x x x x .                                   x x x x .
                 x x x x x                                   x x x x x

The queries are always the last tokens of the keys: with a cache, the last rows of the square.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Mask = Bool[Tensor, "b 1 q k"]


def block_mask(
    query: Int[Tensor, "b q"], key: Int[Tensor, "b k"], valid: Bool[Tensor, "b k"]
) -> Bool[Tensor, "b 1 q k"]:
    """True where the key's block is not after the query's, and the key is not padding."""
    allowed = (key[:, None, :] <= query[:, :, None]) & valid[:, None, :]
    return allowed[:, None]


def open_empty_rows(mask: Bool[Tensor, "b 1 q k"]) -> Bool[Tensor, "b 1 q k"]:
    """The same mask, where a query that may look nowhere (padding) looks everywhere.

    A softmax over nothing is NaN, and NaN times a weight of 0 is NaN in every other row.
    """
    return mask | ~mask.any(dim=-1, keepdim=True)


def causal_blocks(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """A block for each token: plain causal order, whatever the padding."""
    return torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)


def positions_of(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The position of each token in its row; padding takes none and repeats the one before it."""
    return (valid.long().cumsum(dim=-1) - 1).clamp(min=0)
