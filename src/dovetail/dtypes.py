"""The element types of checkpoints: one table for every spelling.

Sizes are in bits, because safetensors has types smaller than a byte. The safetensors column is the
canonical spelling inside dovetail (https://github.com/huggingface/safetensors, `tensor.rs:Dtype`).
"""

from typing import NamedTuple

from dovetail.errors import FormatError, suggestion


class Dtype(NamedTuple):
    """One element type."""

    name: str
    bits: int
    torch: str
    storage: str | None = None

    @property
    def is_float(self) -> bool:
        """Whether values can be NaN or infinite."""
        return self.name[0] in "FB" and self.name != "BOOL"


_TABLE = (
    Dtype("BOOL", 8, "bool", "BoolStorage"),
    Dtype("F4", 4, "float4_e2m1fn_x2"),
    Dtype("F6_E2M3", 6, "float6_e2m3fn"),
    Dtype("F6_E3M2", 6, "float6_e3m2fn"),
    Dtype("U8", 8, "uint8", "ByteStorage"),
    Dtype("I8", 8, "int8", "CharStorage"),
    Dtype("F8_E5M2", 8, "float8_e5m2"),
    Dtype("F8_E4M3", 8, "float8_e4m3fn"),
    Dtype("F8_E8M0", 8, "float8_e8m0fnu"),
    Dtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz"),
    Dtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz"),
    Dtype("I16", 16, "int16", "ShortStorage"),
    Dtype("U16", 16, "uint16"),
    Dtype("F16", 16, "float16", "HalfStorage"),
    Dtype("BF16", 16, "bfloat16", "BFloat16Storage"),
    Dtype("I32", 32, "int32", "IntStorage"),
    Dtype("U32", 32, "uint32"),
    Dtype("F32", 32, "float32", "FloatStorage"),
    Dtype("C64", 64, "complex64", "ComplexFloatStorage"),
    Dtype("F64", 64, "float64", "DoubleStorage"),
    Dtype("I64", 64, "int64", "LongStorage"),
    Dtype("U64", 64, "uint64"),
    Dtype("C128", 128, "complex128", "ComplexDoubleStorage"),
)

DTYPES = {dtype.name: dtype for dtype in _TABLE}
BITS = {dtype.name: dtype.bits for dtype in _TABLE}
_SPELLINGS = (
    DTYPES
    | {dtype.torch: dtype for dtype in _TABLE}
    | {f"torch.{dtype.torch}": dtype for dtype in _TABLE}
    | {dtype.storage: dtype for dtype in _TABLE if dtype.storage}
    | {"half": DTYPES["F16"], "float": DTYPES["F32"], "double": DTYPES["F64"], "long": DTYPES["I64"]}
    | {f"fp{bits}": DTYPES[f"F{bits}"] for bits in (16, 32, 64)}
    | {dtype.name.lower(): dtype for dtype in _TABLE}
)


def dtype_of(spelling: str) -> Dtype:
    """The element type of any spelling: `BF16`, `bf16`, `bfloat16`, `torch.bfloat16`, `BFloat16Storage`.

    Raises:
        FormatError: nobody writes this spelling.
    """
    found = _SPELLINGS.get(spelling) or _SPELLINGS.get(spelling.lower())
    if found is None:
        known = f"known dtypes: {', '.join(DTYPES)}"
        hint = suggestion(spelling[:40], _SPELLINGS, known)
        raise FormatError(f"unknown dtype `{spelling[:40]}`", hint=hint)
    return found
