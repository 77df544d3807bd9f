"""The state of a pickle machine: its stack, its memo, the names it met, and how far it may go.

What each opcode does with them is in `pickle_opcodes.py`; the rules are told in `unpickle.py`.
"""

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any

from dovetail.errors import FormatError
from dovetail.store.torchfile.pickle.calls import CALLS, as_key
from dovetail.store.torchfile.pickle.pickled import Global, Opaque, TensorRecord, shown, type_name, unsafe
from dovetail.store.torchfile.pickle.tensors import is_torch_value

_MAX_ROOM = 1 << 22
_MAX_NAME = 1000

_RECONSTRUCTOR = Global("copyreg", "_reconstructor")

# What is named as a value (a default factory, a type annotation) and means no harm.
_PLAIN_NAMES = {
    "builtins": ["bool", "bytes", "dict", "float", "int", "list", "object", "set", "str", "tuple", "type"],
    "copyreg": ["_reconstructor"],
    "numpy": ["ndarray"],
    "torch": ["Tensor", "strided"],
    "torch.nn.parameter": ["Buffer"],
    "typing": ["Any"],
}


class Machine:
    """The stack, the memo and the position of one run.

    A MARK puts the stack aside and starts a new one; `marks` holds those put aside.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.end = data, len(data)
        self.position = 0
        self.opcode_at = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.opaque: dict[str, None] = {}
        self.tensors: list[TensorRecord] = []
        self.room = _MAX_ROOM

    def finish(self) -> Any:
        """The one value on the stack."""
        left = len(self.stack) + sum(map(len, self.marks))
        if self.marks or left != 1:
            raise FormatError("the pickle does not end with one value", found=f"{left:,} on the stack")
        if self.position != self.end:
            raise FormatError(f"{self.end - self.position:,} bytes follow the end of the pickle")
        return self.stack[0]

    def place(self) -> str:
        """Where it stands, and the last text before it: the name of what it is about to make."""
        place = f"byte {self.opcode_at:,} of the pickle"
        for level in (self.stack, *reversed(self.marks)):
            for item in level[:-9:-1]:
                if type(item) is str:
                    return f"{place}, after {shown(item)}"
        return place

    # Reading the arguments of opcodes

    def take(self, length: int) -> bytes:
        """The next bytes."""
        start = self.position
        self.position = end = start + length
        if end > self.end:
            left = f"{self.end - start:,} bytes"
            raise FormatError("the pickle ends inside a value", expected=f"{length:,} bytes", found=left)
        return self.data[start:end]

    def number(self, width: int) -> int:
        """The next bytes as an unsigned number."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """The next line, as the opcodes of protocol 0 write their arguments."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise FormatError("the last line of the pickle does not end")
        return self.take(end + 1 - self.position)[:-1]

    # The stack

    def spend(self, cost: int = 1) -> None:
        """Counts what a hostile file could make many of."""
        self.room -= cost
        if self.room < 0:
            raise FormatError("the pickle makes too many objects", expected=f"at most {_MAX_ROOM:,}")

    def since_mark(self) -> list[Any]:
        """What was put on the stack after the last MARK."""
        if not self.marks:
            raise FormatError("the pickle goes back to a MARK that it did not set")
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def key(self, value: Any) -> Any:
        """A value as the key of a dict; see `as_key`."""
        if type(value) is str:
            return value
        key = as_key(value)
        if type(key) is str:
            self.spend(1 + len(key) // 64)
        return key

    # Names and calls

    def name(self, module: Any, name: Any) -> Global:
        """A class or function by its name, with Python 2's names brought up to date."""
        if type(module) is not str or type(name) is not str:
            raise FormatError("the pickle names something by values that are not text")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        known = self.globals.get((module, name))
        if known is None:
            self.spend()
            path = f"{module[:_MAX_NAME]}.{name[:_MAX_NAME]}"
            if len(path) >= _MAX_NAME or not all(part.isidentifier() for part in path.split(".")):
                raise FormatError(f"{shown(path)} is not a Python name")
            known = self.globals[module, name] = Global(module, name)
            if not _is_known(known):
                self.opaque[path] = None
        return known

    def call(self, target: Any, arguments: Any, *, makes_object: bool = False) -> Any:
        """What stands for the result of a call, or of making an object."""
        if type(target) is not Global or type(arguments) is not tuple:
            raise FormatError(f"the pickle calls a `{type_name(target)}` with a `{type_name(arguments)}`")
        self.spend()
        rule = CALLS.get((target.module, target.name))
        if rule is None:
            if target == _RECONSTRUCTOR and len(arguments) == 3:
                # How protocols 0 and 1 make an object: its class, the built-in below it, what that holds.
                held = () if arguments[2] is None else arguments[2:]
                return self.call(arguments[0], held, makes_object=True)
            is_member = target.is_class and len(arguments) == 1 and _is_plain(arguments[0])
            if target.is_reserved or not (makes_object or is_member):
                raise unsafe(target)
            return Opaque(target.path, arguments)
        try:
            result = rule(arguments)
        except FormatError as error:
            error.details = {"call": target.path, **error.details}
            raise
        if type(result) is TensorRecord:
            self.tensors.append(result)
        elif isinstance(result, list | tuple | dict | set | frozenset):
            self.spend(len(result))
        elif isinstance(result, str | bytes):
            self.spend(len(result) // 64)
        return result


def decoded(data: bytes) -> str:
    """UTF-8 as text.

    Raises:
        FormatError: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"a text in the pickle is not UTF-8 (its byte {error.start:,})") from None


def _is_known(name: Global) -> bool:
    """Whether dovetail knows what the name stands for."""
    is_listed = (name.module, name.name) in CALLS or name.name in _PLAIN_NAMES.get(name.module, ())
    return is_listed or is_torch_value(name)


def _is_plain(value: Any) -> bool:
    """Whether it is what an enum member may stand for: text, a number, or a flat tuple of them."""
    scalar = str | int | float | bytes | None
    items = value if type(value) is tuple else (value,)
    return all(isinstance(item, scalar) for item in items)
