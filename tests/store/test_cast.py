"""Numbers in another width, against torch: every value of 16 bits, and hard ones of 32 and 64."""

import itertools
import struct

import numpy as np
import pytest
import torch

from dovetail.dtypes import DTYPES
from dovetail.errors import UsageError
from dovetail.store.cast import CASTABLE, cast, is_lossless, to_numbers

TORCH = {name: getattr(torch, DTYPES[name].torch) for name in CASTABLE}
PAIRS = list(itertools.product(CASTABLE, CASTABLE))


def bits32() -> np.ndarray:  # type: ignore[type-arg]
    """Every exponent, with the fractions that lie at, just under and just over each place of rounding."""
    tops = np.arange(1 << 16, dtype=np.uint32) << 16  # every bfloat16
    low = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001]
    return np.concatenate([tops + np.uint32(one) for one in low])


def hard_values(dtype: str) -> torch.Tensor:
    """All values of a dtype of 16 bits; of wider ones what lies around every narrower value."""
    if DTYPES[dtype].bits == 16:
        return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(TORCH[dtype])
    singles = torch.from_numpy(bits32().view(np.float32).copy())
    if dtype == "F32":
        halves = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.float16).float()
        between = (halves[1:] + halves[:-1]) / 2  # where float16 rounds to even
        return torch.cat([singles, between, torch.nextafter(between, torch.tensor(torch.inf))])
    doubles = singles.double()
    return torch.cat(
        [doubles, doubles * (1 + 2**-24), doubles * (1 + 2**-30), doubles * 2.0**900, doubles * 2.0**-900]
    )


def octets(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(torch.uint8).numpy())


def back(data: bytes, dtype: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=TORCH[dtype])


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_cast_is_that_of_torch(source: str, target: str) -> None:
    values = hard_values(source)
    found = back(cast(octets(values), source, target), target)
    expected = values.to(TORCH[target])
    assert found.shape == expected.shape
    is_nan = torch.isnan(values)
    assert torch.equal(torch.isnan(found), torch.isnan(expected))
    assert torch.equal(torch.isnan(found), is_nan)
    # the same bits, the sign of zero included; a NaN has many
    assert octets(found[~is_nan]) == octets(expected[~is_nan])


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_special_values_stay_what_they_are(source: str, target: str) -> None:
    values = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1.0, -2.0, torch.nan], dtype=TORCH[source])
    found = back(cast(octets(values), source, target), target)
    assert found[:6].tolist() == [0.0, -0.0, torch.inf, -torch.inf, 1.0, -2.0]
    assert torch.signbit(found[:2]).tolist() == [False, True]
    assert torch.isnan(found[6])


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FBFFFFF])
def test_no_nan_becomes_infinity_or_zero(bits: int) -> None:
    """Cut to 16 bits, 7f800001 would be infinity; rounded, 7fffffff would be -0."""
    (found,) = struct.unpack("<H", cast(struct.pack("<I", bits), "F32", "BF16"))
    assert found & 0x7FFF > 0x7F80
    assert found >> 15 == bits >> 31


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 + 2**-8, 1.0),  # half way: to the even one
        (1 + 3 * 2**-8, 1 + 2**-6),
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (3.4e38, float("inf")),  # larger than the largest bfloat16 by more than half a step
        (3.389e38, 3.3895313892515355e38),
        (1e-45, 0.0),
    ],
)
def test_rounding_is_to_nearest_even(value: float, expected: float) -> None:
    found = back(cast(struct.pack("<f", value), "F32", "BF16"), "BF16")
    assert found.item() == expected


def test_a_double_is_rounded_once() -> None:
    """1 + 2^-8 + 2^-40 lies above the middle, but as float32 it lies on it, from where it goes to 1."""
    value = 1 + 2**-8 + 2**-40
    assert np.float32(value) == 1 + 2**-8
    torch_says = torch.tensor([value], dtype=torch.float64).to(torch.bfloat16).item()
    assert back(cast(struct.pack("<d", value), "F64", "BF16"), "BF16").item() == torch_says


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_lossless_means_that_every_value_comes_back(source: str, target: str) -> None:
    values = hard_values(source)
    values = values[~torch.isnan(values)]
    there = cast(octets(values), source, target)
    assert (octets(values) == cast(there, target, source)) == is_lossless(source, target)


@pytest.mark.parametrize(
    "pair",
    [
        ("I64", "F32"),
        ("F32", "I8"),
        ("F8_E4M3", "BF16"),
        ("BF16", "F8_E5M2"),
        ("BOOL", "F32"),
        ("C64", "F32"),
    ],
)
def test_what_is_no_plain_float_is_refused(pair: tuple[str, str]) -> None:
    """8-bit floats have scales beside them: a cast of the values alone would lose them."""
    with pytest.raises(UsageError) as error:
        cast(b"", *pair)
    assert str(error.value) == f"cannot change {pair[0]} to {pair[1]}\n\nhint: dtypes: BF16, F16, F32, F64"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_floats_of_8_bits_are_read_as_torch_reads_them(dtype: str) -> None:
    """All 256, NaN and infinity and minus zero among them."""
    bits = torch.arange(256, dtype=torch.uint8)
    expected = bits.view(getattr(torch, DTYPES[dtype].torch)).to(torch.float32)
    found = torch.from_numpy(to_numbers(bytes(range(256)), dtype))
    is_nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(found), is_nan)
    assert octets(found[~is_nan]) == octets(expected[~is_nan])


def test_a_block_may_be_any_buffer() -> None:
    data = octets(torch.arange(5.0))
    assert cast(memoryview(bytearray(data)), "F32", "F64") == octets(torch.arange(5.0).double())
    assert cast(b"", "F32", "BF16") == b""
