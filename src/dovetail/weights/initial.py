"""How a new tensor begins: the values of the rule that its leaf declares, from a seed.

Normal numbers have transformers' `initializer_range` of 0.02; `a_log` is Mamba's, as mamba_ssm sets it.
"""

import math
from collections.abc import Iterator

import numpy as np

from dovetail.errors import UsageError
from dovetail.store.cast import CASTABLE, to_bytes

RANGE = 0.02
BLOCK = 1 << 18  # elements


def initial_chunks(
    rule: str, shape: tuple[int, ...], dtype: str, seed: np.random.SeedSequence
) -> Iterator[bytes]:
    """The bytes of a new tensor, piece by piece.

    Raises:
        UsageError: dovetail does not make numbers of this dtype.
    """
    if dtype not in CASTABLE:
        raise UsageError(f"cannot make values of dtype {dtype}", hint=f"dtypes: {', '.join(CASTABLE)}")
    count = math.prod(shape)
    generator = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        if rule == "normal":
            values = generator.standard_normal(size, dtype=np.float32) * np.float32(RANGE)
        elif rule == "a_log":
            states = np.arange(start, start + size) % shape[-1] + 1
            values = np.log(states.astype(np.float32))
        else:
            values = np.full(size, 1.0 if rule == "ones" else 0.0, dtype=np.float32)
        yield to_bytes(values, dtype)
