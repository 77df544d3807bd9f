"""The calls that a pickle of torch.save may make, and the inert value that stands for each result.

This table is the whole allow-list, by exact module and name. Nothing is imported from the file: a call
is answered here, from its arguments alone, and arguments that the real function would not take are
refused. Tensors are in `pickle_tensors.py`, numpy in `pickle_numpy.py`.
"""

from typing import Any

from dovetail.errors import FormatError
from dovetail.store.torchfile.pickle.numpy import NUMPY_CALLS
from dovetail.store.torchfile.pickle.pickled import (
    Arguments,
    Call,
    Fields,
    Global,
    Opaque,
    expect,
    shown,
    type_name,
)
from dovetail.store.torchfile.pickle.tensors import TENSOR_CALLS

_MAX_TEXT = 4096


def as_key(value: Any) -> Any:
    """A dict key or set member as a value whose hash is cheap: text, a number, or the text of a tuple.

    Raises:
        FormatError: it is a container, a tensor, or an integer of more than 60 bits.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool or kind is float or kind is bytes:
        return value
    if kind is int:
        if value.bit_length() <= 60:
            return value
        raise FormatError(f"a dict key is an integer of {value.bit_length()} bits", expected="at most 60")
    if kind is Opaque or kind is Global:
        return value
    if kind is tuple and _is_short(value):
        return str(value)
    raise FormatError(f"a dict key or set member is a `{type_name(value)}`", expected="text or a number")


def _is_short(value: tuple[Any, ...]) -> bool:
    """Whether a tuple is flat and its text is of a reasonable length."""
    if len(value) > 16 or not all(isinstance(item, str | int | float | None) for item in value):
        return False
    return sum(len(item) for item in value if isinstance(item, str)) <= _MAX_TEXT


def _mapping(arguments: Arguments) -> dict[Any, Any]:
    """`OrderedDict(pairs)`, `Counter(mapping)` and the like."""
    expect(arguments, 0, 1)
    content = arguments[0] if arguments else ()
    if isinstance(content, dict):
        return dict(content)
    if type(content) not in (list, tuple) or not all(type(pair) in (list, tuple) for pair in content):
        raise FormatError(f"a dict is made of a `{type_name(content)}`", expected="pairs")
    if not all(len(pair) == 2 for pair in content):
        raise FormatError("a dict is made of a list that does not hold pairs")
    return {as_key(key): value for key, value in content}


def _default_mapping(arguments: Arguments) -> dict[Any, Any]:
    """`defaultdict(factory, mapping)`; the factory is never called."""
    expect(arguments, 0, 1, 2)
    return _mapping(arguments[1:])


def _sequence(arguments: Arguments) -> list[Any]:
    """`deque(items, length)` and `list(items)`."""
    expect(arguments, 0, 1, 2)
    content = arguments[0] if arguments else ()
    if type(content) not in (list, tuple, set, frozenset):
        raise FormatError(f"a list is made of a `{type_name(content)}`", expected="a list")
    return list(content)


def _tuple(arguments: Arguments) -> tuple[Any, ...]:
    """`torch.Size(sizes)` and `tuple(items)`."""
    return tuple(_sequence(arguments))


def _set(arguments: Arguments) -> set[Any]:
    return {as_key(member) for member in _sequence(arguments)}


def _frozenset(arguments: Arguments) -> frozenset[Any]:
    return frozenset(_set(arguments))


def _bytes(arguments: Arguments) -> bytes:
    """`bytes()`, `bytearray(octets)`, `bytearray(text, "latin-1")`, `_codecs.encode(text, "latin1")`."""
    expect(arguments, 0, 1, 2)
    content = arguments[0] if arguments else b""
    if type(content) is str and arguments[1:] in (("latin1",), ("latin-1",)):
        try:
            return content.encode("latin-1")
        except UnicodeEncodeError:
            raise FormatError("text that stands for bytes holds characters that are none") from None
    if type(content) is not bytes or len(arguments) == 2:
        raise FormatError(f"bytes are made of a `{type_name(content)}`", expected="bytes, or text in latin-1")
    return content


def _complex(arguments: Arguments) -> complex:
    expect(arguments, 2)
    if not all(type(half) is float for half in arguments):
        raise FormatError("a complex number is not made of two floats")
    return complex(*arguments)


def _path(separator: str) -> Call:
    """A file path, as text."""

    def path(arguments: Arguments) -> str:
        if not all(type(part) is str for part in arguments) or sum(map(len, arguments)) > _MAX_TEXT:
            raise FormatError("a file path is not made of text", expected=f"at most {_MAX_TEXT:,} characters")
        root = arguments[0] if arguments and arguments[0].endswith(separator) else ""
        return root + separator.join(arguments[1:] if root else arguments) or "."

    return path


def _moment(name: str) -> Call:
    """A value of `datetime`, made by the real class: its arguments are numbers, bytes and time zones."""

    def moment(arguments: Arguments) -> Any:
        import datetime

        allowed = (int, float, bytes, str, datetime.timedelta, datetime.tzinfo)
        try:
            if all(isinstance(argument, allowed) for argument in arguments):
                return getattr(datetime, name)(*arguments)
        except (TypeError, ValueError, OverflowError):
            pass
        raise FormatError("a date or time is made of something else")

    return moment


def _as_text(name: str) -> Call:
    """The call itself as text: `range(0, 10, 1)`."""

    def text(arguments: Arguments) -> str:
        if len(arguments) > 3 or not all(type(argument) is int or argument is None for argument in arguments):
            raise FormatError(f"a `{name}` is not made of integers")
        return f"{name}({', '.join(map(str, arguments))})"

    return text


def _device(arguments: Arguments) -> str:
    """`torch.device("cuda", 0)`."""
    expect(arguments, 1, 2)
    kind, index = arguments[0], arguments[1:]
    is_name = type(kind) is str and kind.replace(":", "").isalnum()
    if not is_name or not all(type(number) is int for number in index):
        raise FormatError(f"a device is called {shown(kind)}")
    return ":".join(map(str, arguments))


def _text(arguments: Arguments) -> str:
    """`torch.torch_version.TorchVersion("2.6.0")`, `torch.serialization._get_layout("torch.strided")`."""
    expect(arguments, 1)
    if type(arguments[0]) is not str:
        raise FormatError(f"text is made of a `{type_name(arguments[0])}`")
    return arguments[0]


def _namespace(arguments: Arguments) -> Fields:
    expect(arguments, 0)
    return Fields()


def _partial(arguments: Arguments) -> Opaque:
    """`functools.partial(function, ...)`: kept as a record; the function stays a name."""
    return Opaque("functools.partial", arguments)


CALLS: dict[tuple[str, str], Call] = {
    ("collections", "OrderedDict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("collections", "defaultdict"): _default_mapping,
    ("collections", "deque"): _sequence,
    ("builtins", "dict"): _mapping,
    ("builtins", "list"): _sequence,
    ("builtins", "tuple"): _tuple,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _frozenset,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "complex"): _complex,
    ("builtins", "range"): _as_text("range"),
    ("builtins", "slice"): _as_text("slice"),
    ("_codecs", "encode"): _bytes,
    ("functools", "partial"): _partial,
    ("argparse", "Namespace"): _namespace,
    ("types", "SimpleNamespace"): _namespace,
    ("torch", "Size"): _tuple,
    ("torch", "device"): _device,
    ("torch.serialization", "_get_layout"): _text,
    ("torch.torch_version", "TorchVersion"): _text,
} | {
    (module, name): _path("\\" if "Windows" in name else "/")
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
}
CALLS |= {("datetime", name): _moment(name) for name in ("datetime", "date", "time", "timedelta", "timezone")}
CALLS |= TENSOR_CALLS | NUMPY_CALLS
