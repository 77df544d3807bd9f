"""Floating-point numbers in another width: rounded to nearest even, NaN and infinity kept.

Every bit is as torch has it, which takes doubles to 16 bits by way of float32.
Only this is done to values anywhere in dovetail, and only when asked for.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CASTABLE = ("BF16", "F16", "F32", "F64")
# (exponent bits, fraction bits): a cast loses nothing if neither shrinks
_BITS = {"F64": (11, 52), "F32": (8, 23), "F16": (5, 10), "BF16": (8, 7)}
# The largest finite number of each.
LARGEST = {
    "F64": 1.7976931348623157e308,
    "F32": 3.4028234663852886e38,
    "BF16": 3.3895313892515355e38,
    "F16": 65504.0,
}
# The bits of infinity without its sign, and the integer to read them with.
_INFINITE: dict[str, tuple[Any, int]] = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
}
# (fraction bits, bias of the exponent)
_EIGHT_BITS = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}
INTEGERS = {
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.uint8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
_NUMPY: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def is_lossless(source: str, target: str) -> bool:
    """Whether every value of one dtype is a value of the other."""
    return all(a <= b for a, b in zip(_BITS[source], _BITS[target], strict=True))


def cast(block: Any, source: str, target: str) -> bytes:
    """The values of a block of bytes in another dtype.

    Raises:
        UsageError: one of the dtypes is not floating point of 16 bits or more.
    """
    for dtype in (source, target):
        if dtype not in CASTABLE:
            raise UsageError(f"cannot change {source} to {target}", hint=f"dtypes: {', '.join(CASTABLE)}")
    return to_bytes(to_numbers(block, source), target)


def num_infinite(block: Any, dtype: str) -> int:
    """How many numbers of a block of bytes are infinite."""
    integer, bits = _INFINITE[dtype]
    numbers = np.frombuffer(block, integer)
    without_sign = numbers & integer(np.iinfo(integer).max >> 1)
    return int(np.count_nonzero(without_sign == integer(bits)))


def to_array(block: Any, dtype: str) -> "NDArray[Any]":
    """The values behind the bytes, whole numbers and truth values as they are, floats as in `to_numbers`.

    Raises:
        KeyError: numpy has no such numbers.
    """
    if dtype in INTEGERS:
        return np.frombuffer(block, bool if dtype == "BOOL" else INTEGERS[dtype])
    return to_numbers(block, dtype)


def to_numbers(block: Any, dtype: str) -> "NDArray[Any]":
    """The numbers behind the bytes; bfloat16 and floats of 8 bits as float32."""
    if dtype == "BF16":
        return (np.frombuffer(block, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype in _EIGHT_BITS:
        return _of_eight_bits(dtype)[np.frombuffer(block, np.uint8)]
    return np.frombuffer(block, _NUMPY[dtype])


@cache
def _of_eight_bits(dtype: str) -> "NDArray[np.float32]":
    """The 256 values of a dtype, by their bits (arXiv:2209.05433 table 1)."""
    fraction_bits, bias = _EIGHT_BITS[dtype]
    bits = np.arange(256)
    exponent, fraction = (bits & 0x7F) >> fraction_bits, bits & ((1 << fraction_bits) - 1)
    is_normal = exponent > 0
    significand = (fraction + (is_normal << fraction_bits)).astype(np.float32)
    values: NDArray[np.float32] = np.ldexp(
        significand, np.where(is_normal, exponent, 1) - bias - fraction_bits
    )
    if dtype == "F8_E5M2":
        values[(bits & 0x7F) == 0x7C] = np.inf
        values[(bits & 0x7F) > 0x7C] = np.nan
    else:  # it spends only the last one on NaN, and none on infinity
        values[(bits & 0x7F) == 0x7F] = np.nan
    values[128:] *= -1
    return values


def to_bytes(numbers: "NDArray[Any]", dtype: str) -> bytes:
    """Numbers as the bytes of a dtype."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are as good as any value
        if dtype in ("BF16", "F16"):
            numbers = numbers.astype(np.float32, copy=False)
        if dtype != "BF16":
            return numbers.astype(_NUMPY[dtype], copy=False).tobytes()
    bits = numbers.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # the largest NaNs would wrap around to zero; a quiet NaN of the same sign stands for all of them
    quiet = ((bits >> np.uint32(16)) & np.uint32(0x8000)) | np.uint32(0x7FC0)
    is_nan = (bits & np.uint32(0x7FFF_FFFF)) > np.uint32(0x7F80_0000)
    return np.where(is_nan, quiet, rounded).astype(np.uint16).tobytes()
