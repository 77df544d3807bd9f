"""Tensors over the bytes of a checkpoint: a view of the file where a leaf lies in one run, else a copy.

A view is private to the process: what is written to it is copied first and the file never changes, so
that a loaded model can be trained in place. Pages that nobody touches are never read.
"""

import mmap
import sys
from math import prod

import torch
from torch import Tensor

from dovetail.dtypes import BITS, DTYPES
from dovetail.errors import CheckpointError
from dovetail.store.store import Store, local_path
from dovetail.weights.leaf import Leaf


class MappedFiles:
    """The files of a store, mapped when they are first needed. The tensors keep the maps alive."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._maps: dict[int, mmap.mmap] = {}

    def tensor(self, leaf: Leaf) -> Tensor:
        """The values of a leaf.

        Raises:
            CheckpointError: the checkpoint has no values, or they are no numbers of a torch type.
        """
        dtype = getattr(torch, DTYPES[leaf.dtype].torch, None)
        if dtype is None or not dtype.is_floating_point or BITS[leaf.dtype] < 16:
            raise CheckpointError(
                f"values of dtype {leaf.dtype} are not weights that a model runs with",
                tensor=leaf.spans[0].tensor if leaf.spans else leaf.name,
                hint="the checkpoint is quantised; load the one that it was made from",
            )
        data, start = self._place(leaf, dtype.itemsize)
        return torch.frombuffer(data, dtype=dtype, count=prod(leaf.shape), offset=start).view(leaf.shape)

    def forget(self, leaf: Leaf) -> None:
        """Lets go of the memory that a leaf was read into; its tensor is read again if it is used again."""
        if leaf.make is not None or len(leaf.spans) != 1:
            return
        entry = self._store.entries[leaf.spans[0].tensor]
        mapped = self._maps.get(entry.file)
        if mapped is not None:
            start = entry.start + leaf.spans[0].start
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            whole = (start + leaf.spans[0].length - first) // mmap.PAGESIZE * mmap.PAGESIZE
            if whole > 0 and sys.platform != "win32":
                mapped.madvise(mmap.MADV_DONTNEED, first, whole)

    def _place(self, leaf: Leaf, itemsize: int) -> "tuple[mmap.mmap | bytearray, int]":
        """A buffer that holds the leaf in one run, and where in it."""
        if leaf.make is None and len(leaf.spans) == 1:
            entry = self._store.entries[leaf.spans[0].tensor]
            start = entry.start + leaf.spans[0].start
            if start % itemsize == 0 and (mapped := self._map(entry.file)) is not None:
                return mapped, start
        return leaf.whole(), 0

    def _map(self, file: int) -> mmap.mmap | None:
        """A whole file, None if it is not on this machine."""
        if file not in self._maps:
            path = local_path(self._store, file)
            if path is None:
                return None
            with open(path, "rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[file]
