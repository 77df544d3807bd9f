"""Files of the real torch.save for tests, and what their tensors hold."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dovetail.dtypes import DTYPES
from dovetail.store.folder import LocalFolder
from dovetail.store.source import LocalSource
from dovetail.store.store import Shard, Store
from dovetail.store.torchfile.read import read_torch


def saved(value: Any, path: Path, **options: Any) -> Shard:
    torch.save(value, path, **options)
    return read_torch(LocalSource(str(path), name=path.name))


def opened(path: Path) -> Store:
    shard = read_torch(LocalSource(str(path)))
    return Store(
        str(path), "torch", files=[path.name], folder=LocalFolder(str(path.parent)), **shard._asdict()
    )


def octets(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row-major order."""
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def check_values(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with opened(path) as store:
        assert list(store.entries) == list(tensors)
        for name, tensor in tensors.items():
            entry = store.entries[name]
            assert DTYPES[entry.dtype].torch == str(tensor.dtype).removeprefix("torch.")
            assert entry.shape == tuple(tensor.shape)
            assert store.read(name) == octets(tensor), name


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = int(np.prod(shape)) * dtype.itemsize
    values = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8)
    return values.view(dtype).reshape(shape)
