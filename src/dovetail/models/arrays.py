"""Arrays of `dovetail.inputs` as tensors on a device."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def tensors(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """The same values as tensors of the same dtypes; on the CPU they share memory with the arrays."""
    return {name: _tensor(array).to(device) for name, array in arrays.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
