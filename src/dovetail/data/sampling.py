"""Which records of a file are taken: all, the first or last N, or N drawn by a seed.

    all   first:N   end:N   random:N        N a number, or a part of the file: 25%, 12.5%

A part is rounded up, as in LLaVA-NeXT (`llava/train/train.py:LazySupervisedDataset`). There `end:0` and
unknown words give all records and `random` has no seed; here `end:0` gives none, and a word that is not
understood is an error, as are more records than there are.
"""

import math
import re
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from dovetail.errors import DataError, suggestion

STRATEGIES = ("all", "first", "end", "random")
_AMOUNT = re.compile(r"([0-9]{1,18})|([0-9]{1,9}(?:\.[0-9]{1,9})?) ?%")
_HINT = "write all, first:N, end:N or random:N, with N a number or a part such as 12.5%"


def chosen(
    strategy: str, count: int, *, seed: int = 0, position: int = 0
) -> Int64[np.ndarray, " chosen"] | None:
    """The numbers of the records that are taken of `count`, in the order of the file; None for all of them.

    What `random` draws depends on the seed, the count and the position of the file in its list alone.

    >>> chosen("first:25%", 10).tolist()
    [0, 1, 2]

    Raises:
        DataError: the strategy is not understood, or asks for more than there is.
    """
    word, colon, amount = strategy.strip().partition(":")
    if word not in STRATEGIES:
        raise DataError(
            f"there is no sampling strategy `{word[:40]}`", hint=suggestion(word, STRATEGIES, _HINT)
        )
    if word == "all":
        if colon:
            raise DataError(f"`{strategy[:40]}`: all takes no number", hint=_HINT)
        return None
    number = _number(amount.strip(), strategy, count)
    if word == "first":
        return np.arange(number)
    if word == "end":
        return np.arange(count - number, count)
    draw = np.random.default_rng([seed, position])
    return np.sort(draw.choice(count, number, replace=False)).astype(np.int64)


def _number(amount: str, strategy: str, count: int) -> int:
    """How many records are asked for.

    Raises:
        DataError: it is no number, or more than there are.
    """
    found = _AMOUNT.fullmatch(amount)
    if found is None:
        raise DataError(f"`{strategy[:40]}` says no number of records", hint=_HINT)
    whole, part = found.groups()
    number = int(whole) if part is None else math.ceil(Fraction(part) * count / 100)
    if number > count:
        raise DataError(
            f"`{strategy}` asks for more records than there are",
            expected=f"at most {count:,}",
            found=f"{number:,}",
            hint="take all of them, or a smaller part",
        )
    return number
