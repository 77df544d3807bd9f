"""The noise and the times that policies are trained with: drawn for each sample and step from a seed.

Whatever the order of the samples, the number of processes or a resume, the same sample at the same step is
given the same numbers. Their distributions are those of `models/trainable.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def draws(
    samples: Int[Tensor, " b"], shape: Sequence[int], *, seed: int, step: int
) -> tuple[Float[Tensor, "b t a"], Float[Tensor, " b"]]:
    """Noise of this shape and a time, for each sample. Evaluation is step 0, training begins with 1.

    Times are 0.999 x + 0.001, x from Beta(1.5, 1). Source: openpi@15a9616 `pi0_pytorch.py:sample_time`.
    """
    rows = [np.random.default_rng((seed, step, int(number))) for number in samples]
    share = np.array([row.random() for row in rows])
    noise = np.stack([row.standard_normal(tuple(shape), dtype=np.float32) for row in rows])
    times = (share ** (1 / 1.5) * 0.999 + 0.001).astype(np.float32)
    return torch.from_numpy(noise).to(samples.device), torch.from_numpy(times).to(samples.device)
