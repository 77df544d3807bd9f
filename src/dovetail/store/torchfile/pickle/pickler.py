"""A nested dict of plain values and tensors as the pickle of a torch file, written without torch.

Protocol 2, as torch.save writes it, and only what `torch.load(weights_only=True)` reads: None, bool, int,
float, str, bytes, list, tuple, dict and tensors. Python's pickler would need torch's own classes to
name them; a name is all that the file holds, so it is written here.
"""

import struct
from typing import Any

from dovetail.dtypes import DTYPES
from dovetail.errors import WriteError
from dovetail.store.torchfile.pickle.pickled import Global, TensorRecord

_MAX_DEPTH = 64
_ORDERED_DICT = Global("collections", "OrderedDict")
_ENCODE = Global("_codecs", "encode")
_UNTYPED = Global("torch.storage", "UntypedStorage")
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_UNTYPED = Global("torch._utils", "_rebuild_tensor_v3")


def pickle_of(value: Any) -> bytes:
    """The pickle of a value; a `TensorRecord` in it becomes a tensor.

    Raises:
        WriteError: it holds something that torch.load would not read, or is nested too deeply.
    """
    writer = _Pickler()
    writer.put(value, 0)
    return b"\x80\x02" + bytes(writer.out) + b"."


class _Pickler:
    """The bytes so far, and the texts and names that have been written once and are recalled after."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[str | Global, int] = {}

    def put(self, value: Any, depth: int) -> None:
        """Writes any value."""
        if depth > _MAX_DEPTH:
            raise WriteError(
                "a value is nested too deeply",
                expected=f"at most {_MAX_DEPTH} levels",
                hint="write safetensors instead: --format safetensors",
            )
        if value is None or type(value) is bool:
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif type(value) is int:
            self.integer(value)
        elif type(value) is float:
            self.out += b"G" + struct.pack(">d", value)
        elif type(value) is str or type(value) is Global:
            self.once(value)
        elif type(value) is bytes:
            self.call(_ENCODE, value.decode("latin-1"), "latin1")
        elif type(value) is tuple or type(value) is list:
            self.sequence(value, depth + 1)
        elif isinstance(value, dict):
            self.mapping(value, depth + 1)
        elif type(value) is TensorRecord:
            self.tensor(value)
        else:
            expected = "None, bool, int, float, str, bytes, list, tuple or dict"
            raise WriteError(
                f"a `{type(value).__name__}` does not go into a torch file",
                expected=expected,
                hint="write safetensors instead: --format safetensors",
            )

    def integer(self, value: int) -> None:
        """Writes an integer in the fewest bytes."""
        if 0 <= value < 1 << 8:
            self.out += b"K" + value.to_bytes(1)
        elif 0 <= value < 1 << 16:
            self.out += b"M" + value.to_bytes(2, "little")
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + value.to_bytes(4, "little", signed=True)
        elif (length := value.bit_length() // 8 + 1) < 256:
            self.out += b"\x8a" + length.to_bytes(1) + value.to_bytes(length, "little", signed=True)
        else:
            raise WriteError(
                f"an integer has {value.bit_length():,} bits",
                expected="at most 2,039",
                hint="write safetensors instead: --format safetensors",
            )

    def once(self, value: str | Global) -> None:
        """Writes a text or name the first time, recalls it after."""
        index = self.memo.get(value)
        if index is not None:
            self.out += b"h" + index.to_bytes(1) if index < 256 else b"j" + index.to_bytes(4, "little")
            return
        if isinstance(value, str):
            text = value.encode()
            self.out += b"X" + len(text).to_bytes(4, "little") + text
        else:
            self.out += f"c{value.module}\n{value.name}\n".encode()
        index = self.memo[value] = len(self.memo)
        self.out += b"q" + index.to_bytes(1) if index < 256 else b"r" + index.to_bytes(4, "little")

    def sequence(self, items: Any, depth: int) -> None:
        """Writes a list or tuple."""
        self.out += b"]" if type(items) is list else b""
        self.out += b"("
        for item in items:
            self.put(item, depth)
        self.out += b"e" if type(items) is list else b"t"

    def mapping(self, items: dict[Any, Any], depth: int) -> None:
        """Writes a dict."""
        self.out += b"}("
        for key, item in items.items():
            self.put(key, depth)
            self.put(item, depth)
        self.out += b"u"

    def call(self, function: Global, *arguments: Any) -> None:
        """Writes a call."""
        self.once(function)
        self.sequence(arguments, 0)
        self.out += b"R"

    def tensor(self, tensor: TensorRecord) -> None:
        """Writes a tensor; element types younger than torch's typed storages go by way of bytes."""
        storage, dtype = tensor.storage, DTYPES[tensor.dtype]
        assert storage is not None
        is_typed = dtype.storage is not None
        kind = Global("torch", dtype.storage) if dtype.storage is not None else _UNTYPED
        self.once(_REBUILD if is_typed else _REBUILD_UNTYPED)
        self.out += b"("
        elements = storage.elements if is_typed else storage.bytes
        self.sequence(("storage", kind, storage.key, "cpu", elements), 0)
        self.out += b"Q"
        for value in (tensor.offset, tensor.shape, tensor.strides, False):
            self.put(value, 0)
        self.call(_ORDERED_DICT)
        if not is_typed:
            self.once(Global("torch", dtype.torch))
        self.out += b"tR"
