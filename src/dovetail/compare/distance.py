"""How far two tensors are apart, read in pieces: equal to the byte, or by how much they differ."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from dovetail.compare.difference import Distance
from dovetail.dtypes import BITS
from dovetail.store.cast import INTEGERS, to_numbers
from dovetail.store.write.tensor_data import Block, Skip
from dovetail.weights.leaf import Leaf

# elements at once: a MiB or two whatever the dtype
_PIECE = 1 << 18
Bytes = bytes | bytearray | memoryview
_SHORT = ("BF16", "F16", "F8_E4M3", "F8_E5M2")
_LONG = ("F32", "F64")

SAME = Distance(0.0, 0.0)
UNKNOWN = Distance(math.nan, math.nan)


def distance(a: Leaf, b: Leaf) -> Distance:
    """The distance of two tensors of one shape; what differs at all is read a second time."""
    read_a, read_b = _reader(a), _reader(b)
    if a.dtype == b.dtype and all(
        read_a(start, count) == read_b(start, count) for start, count in _pieces(a)
    ):
        return SAME
    largest = squares = norm = 0.0
    for start, count in _pieces(a):
        x, y = _numbers(read_a(start, count), a.dtype), _numbers(read_b(start, count), b.dtype)
        if x is None or y is None:
            return UNKNOWN
        off = _apart(x, y)
        largest = float(np.maximum(largest, off.max(initial=0.0)))
        squares += _sum_of_squares(off)
        norm += _sum_of_squares(x)
    return Distance(largest, math.sqrt(squares / norm) if norm else math.inf if squares else 0.0)


def _pieces(leaf: Leaf) -> Iterator[tuple[int, int]]:
    for start in range(0, leaf.elements, _PIECE):
        yield start, min(_PIECE, leaf.elements - start)


def _apart(x: Any, y: Any) -> Any:
    """|x - y|; nothing where both are NaN, or the same infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(np.subtract(x, y))
    if np.isnan(off.max(initial=0.0)):
        off[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
    return off


def _sum_of_squares(x: Any) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        total = float(np.dot(x, x))
        return total if math.isfinite(total) else float(np.dot(wide := x.astype(np.float64), wide))


def _numbers(data: Bytes, dtype: str) -> Any:
    """The values as float64, short ones as float32, which holds them and their differences; else None."""
    if dtype in _SHORT:
        return to_numbers(data, dtype).astype(np.float32, copy=False)
    if dtype in _LONG:
        return to_numbers(data, dtype).astype(np.float64, copy=False)
    if dtype in INTEGERS:
        return np.frombuffer(data, dtype=INTEGERS[dtype]).astype(np.float64)
    return None


def _reader(leaf: Leaf) -> Callable[[int, int], Bytes]:
    """Reads some elements; one that cannot be read in part is held as a whole."""
    store, width = leaf.store, BITS[leaf.dtype]
    if store is None or any(store.entries[span.tensor].strides is not None for span in leaf.spans):
        data = memoryview(leaf.whole())
        return lambda start, count: data[start * width // 8 : (start + count) * width // 8]
    return lambda start, count: _joined(leaf.blocks(start, count), count * width // 8)


def _joined(blocks: Iterable[Block], size: int) -> Bytes:
    """The bytes of some blocks; of a hole always the same zeros, which are equal without a look."""
    data = bytearray()
    for block in blocks:
        if isinstance(block, Skip):
            if block.size == size:
                return _zeros(size)
            data += bytes(block.size)
        else:
            data += block  # a copy: the next block comes in the same buffer
    return data


@lru_cache(maxsize=4)
def _zeros(size: int) -> bytes:
    return bytes(size)
