"""Rows of token ids as one array, padded."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from dovetail.errors import UsageError

# The target of a token that does not count (transformers and torch call it `ignore_index`).
IGNORED = -100
Side = Literal["left", "right"]
_SIDES = ("left", "right")


def pad_rows(
    rows: Sequence[Sequence[int]], *, side: str
) -> tuple[Int64[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
    """Rows of token ids as one array, padded with 0, and where the rows are.

    Raises:
        UsageError: there is no row, or an empty one, or no such side.
    """
    if side not in _SIDES:
        near = side.lower() if isinstance(side, str) and side.lower() in _SIDES else None
        raise UsageError(
            f"rows cannot be padded on the side `{side}`",
            hint=f'give pad="{near}"' if near else 'give pad="left", or pad="right" to train',
        )
    if not rows or not all(len(row) for row in rows):
        raise UsageError(
            "a batch has at least one row, and a row at least one token",
            hint="give token ids, one list for each row",
        )
    width = max(len(row) for row in rows)
    tokens = np.zeros((len(rows), width), np.int64)
    valid = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        tokens[i, start : start + len(row)] = row
        valid[i, start : start + len(row)] = True
    return tokens, valid


def token_ids(row: Any, where: str) -> list[int]:
    """Token ids as Python's integers, whatever sequence or array they come in.

    Raises:
        UsageError: they are something else.
    """
    try:
        ids = np.asarray(row)
    except (ValueError, TypeError, OverflowError):  # of several lengths, or of several types
        ids = np.asarray(None)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise UsageError(
            f"{where} is no row of token ids",
            expected="whole numbers",
            found=f"{ids.dtype} {ids.shape}" if ids.dtype != object else type(row).__name__,
            hint="tokens are a list of rows, each a list of the ids that a tokenizer gives",
        )
    found: list[int] = ids.tolist()
    return found
