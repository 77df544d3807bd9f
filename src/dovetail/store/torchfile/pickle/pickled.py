"""The inert records that stand for what a pickle would build: data only, nothing of it can run.

A pickle is a program. Reading one without running it means that every object it would make becomes a
plain Python value or one of these records, and that every class or function it names stays a name.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from dovetail.dtypes import BITS
from dovetail.errors import FormatError, UnsafeError

Arguments = tuple[Any, ...]
Call = Callable[[Arguments], Any]

# Code under these names is never somebody's own class, so an object of it is refused unless allowed.
_RESERVED = sys.stdlib_module_names | {"torch", "numpy"}


class Global(NamedTuple):
    """A class or function that the pickle names; it is neither imported nor called."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"

    @property
    def is_reserved(self) -> bool:
        """Whether it belongs to Python, torch or numpy rather than to somebody's own code."""
        return self.module.partition(".")[0] in _RESERVED

    @property
    def is_class(self) -> bool:
        """Whether its name is written like that of a class."""
        return self.name.rpartition(".")[2].lstrip("_")[:1].isupper()


class Storage(NamedTuple):
    """A run of elements in an entry of its own beside the pickle."""

    key: str
    dtype: str
    elements: int

    @property
    def bytes(self) -> int:
        """Its length."""
        return self.elements * BITS[self.dtype] // 8


class TensorRecord(NamedTuple):
    """A tensor as a view of a storage; offset and strides count elements of `dtype`.

    `storage` is None for a tensor on torch's meta device: it has a shape and no values.
    """

    storage: Storage | None
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Record(ABC):
    """Something that the pickle makes first and fills afterwards (BUILD)."""

    __slots__ = ()

    @abstractmethod
    def build(self, state: Any) -> None:
        """Takes the state that the pickle gives it."""


class Fields(dict[Any, Any], Record):
    """An `argparse.Namespace` or `types.SimpleNamespace`."""

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise FormatError(f"a namespace is filled with a `{type_name(state)}`", expected="a dict")
        self.update(state)


class Opaque(Record):
    """An object of a class that is not on the allow-list: its name and what the pickle would give it.

    `arguments` are what the class would be called with, `state` what would become its fields, `items`
    and `elements` what it would hold if it is a kind of dict or list.
    """

    __slots__ = ("arguments", "class_name", "elements", "items", "state")

    def __init__(self, class_name: str, arguments: tuple[Any, ...] = (), state: Any = None) -> None:
        self.class_name = class_name
        self.arguments = arguments
        self.state = state
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []

    def build(self, state: Any) -> None:
        self.state = state

    @property
    def is_member(self) -> bool:
        """Whether it is made from one plain value and nothing else, as a member of an enum is."""
        is_alone = len(self.arguments) == 1 and self.state is None and not self.items and not self.elements
        return is_alone and isinstance(self.arguments[0], str | int | float | bytes | None)

    @property
    def content(self) -> Any:
        """What a reader wants of it: the value of an enum member, the fields of anything else.

        pydantic keeps the fields one level down; omegaconf keeps them in `_content` and single values in
        `_val`, among its own bookkeeping.
        """
        if self.is_member:
            return self.arguments[0]
        if type(self.state) is not dict or self.arguments or self.items or self.elements:
            return self._fields()
        if isinstance(inner := self.state.get("__dict__"), dict):
            return inner
        if self.class_name.startswith("omegaconf."):
            return self.state.get("_content", self.state.get("_val", self.state))
        return self.state

    def _fields(self) -> dict[Any, Any]:
        """Everything that it holds by name; arguments and elements, which have none, as lists."""
        held: dict[Any, Any] = {}
        if self.arguments:
            held["arguments"] = self.arguments
        for state in self.state if _is_slot_state(self.state) else (self.state,):
            if isinstance(state, dict):
                held |= state
            elif state is not None:
                held["state"] = state
        held |= self.items
        if self.elements:
            held["elements"] = self.elements
        return held


def expect(arguments: Arguments, *counts: int) -> None:
    """Refuses a call with another number of arguments.

    Raises:
        FormatError: the number is not among `counts`.
    """
    if len(arguments) not in counts:
        expected = " or ".join(str(count) for count in counts)
        raise FormatError(f"a function is called with {len(arguments)} arguments", expected=expected)


def unsafe(target: Global) -> UnsafeError:
    """The refusal of a call, with the way out that fits what is called."""
    way_out = "ask its publisher for safetensors, or for torch.save of a plain state dict"
    if target.module.startswith("torch.nn."):
        way_out = (
            "it holds a whole model object, save the weights alone: torch.save(model.state_dict(), PATH)"
        )
    elif target.is_class and not target.is_reserved:
        load = f"with torch.serialization.safe_globals([{target.name}]): old = torch.load(OLD)"
        way_out += f"; if the class is your own: {load}; torch.save(old['state_dict'], NEW)"
    hint = f"do not load this file with torch.load(weights_only=False), which would run the call; {way_out}"
    return UnsafeError(f"the pickle would call `{target.path}`", hint=hint)


# What messages call the records, whose own names only this package knows.
_TYPE_NAMES = {
    "Array": "numpy.ndarray",
    "ElementType": "numpy.dtype",
    "Fields": "Namespace",
    "Storage": "storage",
    "TensorRecord": "tensor",
}


def type_name(value: object) -> str:
    """What to call the type of a value in a message."""
    if isinstance(value, Global):
        return value.path
    name = type(value).__name__
    return value.class_name if isinstance(value, Opaque) else _TYPE_NAMES.get(name, name)


def shown(value: object, limit: int = 60) -> str:
    """A value of the file in a message: escaped, and cut when it is long."""
    if not isinstance(value, str | int | float | None) and not _is_flat(value):
        return f"a `{type_name(value)}`"
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _is_flat(value: object) -> bool:
    return type(value) is tuple and len(value) <= 16 and all(type(item) is int for item in value)


def _is_slot_state(state: object) -> bool:
    """Whether it is the pair (fields, slots) that a class with `__slots__` pickles."""
    return type(state) is tuple and len(state) == 2 and all(isinstance(half, dict | None) for half in state)
