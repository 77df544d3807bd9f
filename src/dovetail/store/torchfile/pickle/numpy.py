"""The calls with which numpy rebuilds its scalars, element types and small arrays; numpy itself stays out.

Training frameworks leave numpy values beside the weights: statistics, random states, hyper-parameters.
What can be read with `struct` becomes plain numbers and lists; the rest is said in words.
"""

import struct
from math import prod
from typing import Any

from dovetail.errors import FormatError
from dovetail.store.torchfile.pickle.pickled import (
    Arguments,
    Call,
    Global,
    Opaque,
    Record,
    expect,
    shown,
    type_name,
)

_MAX_ELEMENTS = 4096

# numpy's code for an element type -> how `struct` writes it, how many of them make one element.
_CODES = {
    "b1": ("?", 1), "i1": ("b", 1), "i2": ("h", 1), "i4": ("i", 1), "i8": ("q", 1),
    "u1": ("B", 1), "u2": ("H", 1), "u4": ("I", 1), "u8": ("Q", 1),
    "f2": ("e", 1), "f4": ("f", 1), "f8": ("d", 1), "c8": ("f", 2), "c16": ("d", 2),
}  # fmt: skip


class ElementType(Record):
    """A `numpy.dtype`."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, order: str = "<") -> None:
        self.code = code
        self.order = order

    def __str__(self) -> str:
        return f"numpy.{self.code}"

    def build(self, state: Any) -> None:
        """Takes `(version, byte order, ...)`."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise FormatError("a numpy dtype has no byte order")
        self.order = ">" if state[1] == ">" else "<"

    def decode(self, data: bytes, count: int) -> list[Any] | None:
        """The elements that the bytes hold, None where `struct` cannot read them.

        Raises:
            FormatError: they are not `count` elements.
        """
        if self.code not in _CODES:
            return None
        letter, parts = _CODES[self.code]
        size = struct.calcsize(self.order + letter) * parts
        if len(data) != size * count:
            expected, found = f"{size * count:,} bytes", f"{len(data):,}"
            raise FormatError(f"a numpy value of {self.code} is cut off", expected=expected, found=found)
        numbers = list(struct.unpack(f"{self.order}{count * parts}{letter}", data))
        pairs = zip(numbers[::2], numbers[1::2], strict=False)
        return numbers if parts == 1 else [complex(*pair) for pair in pairs]


class Array(Record):
    """A `numpy.ndarray`; its bytes lie inside the pickle."""

    __slots__ = ("data", "element", "is_fortran", "shape")

    def __init__(
        self, shape: tuple[int, ...] = (), element: ElementType | None = None, data: bytes = b""
    ) -> None:
        self.shape = shape
        self.element = element
        self.data = data
        self.is_fortran = False

    def build(self, state: Any) -> None:
        """Takes `(version, shape, dtype, is_fortran, data)`."""
        if type(state) is not tuple or len(state) != 5:
            raise FormatError("a numpy array is filled with something else than its five fields")
        _, shape, element, is_fortran, data = state
        if not _is_shape(shape):
            raise FormatError(f"a numpy array has the shape {shown(shape)}")
        if type(element) is not ElementType or type(data) not in (bytes, list):
            raise FormatError(f"a numpy array holds a `{type_name(data)}` of `{type_name(element)}`")
        self.shape, self.element, self.is_fortran = shape, element, bool(is_fortran)
        self.data = data if type(data) is bytes else b""

    def plain(self) -> Any:
        """Nested lists of numbers, or a description of an array that is large or holds objects."""
        element, count = self.element or ElementType("?"), prod(self.shape)
        is_flat = len(self.shape) < 2 or not self.is_fortran
        if count > _MAX_ELEMENTS or len(self.shape) > 8 or not is_flat or not self.data:
            return [] if count == 0 and len(self.shape) == 1 else self._words(element)
        values: Any = element.decode(self.data, count)
        if values is None:
            return self._words(element)
        for size in reversed(self.shape[1:]):
            values = [values[start : start + size] for start in range(0, len(values), size)]
        return values if self.shape else values[0]

    def _words(self, element: ElementType) -> str:
        return f"numpy array of {shown(element.code)}, shape {shown(self.shape)}"


def _is_shape(shape: Any) -> bool:
    is_short = type(shape) is tuple and len(shape) <= 64
    return is_short and all(type(size) is int and 0 <= size < 1 << 48 for size in shape)


def _dtype(arguments: Arguments) -> ElementType:
    """`numpy.dtype("f8", False, True)`."""
    expect(arguments, 1, 3)
    name = arguments[0]
    code = name.lstrip("<>|=") if type(name) is str else ""
    if not code.isalnum() or len(code) > 16:
        raise FormatError(f"a numpy dtype is called {shown(name)}", expected="a code such as 'f8'")
    return ElementType(code, ">" if name.startswith(">") else "<")


def _scalar(arguments: Arguments) -> Any:
    """`scalar(dtype, bytes)`; text as text, what `struct` cannot read as a record."""
    expect(arguments, 2)
    element, data = arguments
    if type(element) is not ElementType or type(data) is not bytes:
        raise FormatError(f"a numpy scalar is a `{type_name(data)}` of `{type_name(element)}`")
    if element.code[:1] == "U":
        try:
            return data.decode("utf-32-be" if element.order == ">" else "utf-32-le").rstrip("\0")
        except UnicodeDecodeError:
            raise FormatError("a numpy text is not UTF-32") from None
    values = element.decode(data, 1)
    return values[0] if values is not None else Opaque(f"numpy.{element.code}", (data,))


def _array(arguments: Arguments) -> Array:
    """`_reconstruct(numpy.ndarray, (0,), b"b")`; the content follows."""
    expect(arguments, 3)
    if type(arguments[0]) is not Global or arguments[0] != ("numpy", "ndarray"):
        raise FormatError(f"a numpy array is of the class `{type_name(arguments[0])}`")
    return Array()


def _from_buffer(arguments: Arguments) -> Array:
    """`_frombuffer(data, dtype, shape, order)`: how protocol 5 writes an array."""
    expect(arguments, 4)
    data, element, shape, order = arguments
    array = Array()
    array.build((1, shape, element, order == "F", data))
    return array


NUMPY_CALLS: dict[tuple[str, str], Call] = {("numpy", "dtype"): _dtype} | {
    (f"numpy.{core}.{module}", name): rule
    for core in ("core", "_core")
    for module, name, rule in (
        ("multiarray", "scalar", _scalar),
        ("multiarray", "_reconstruct", _array),
        ("numeric", "_frombuffer", _from_buffer),
    )
}
