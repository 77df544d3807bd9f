"""A nested value out of a pickle as named tensors, and what else it says.

Levels are joined with `/`, and a name keeps the dots that it has:

    {"model": {"vision": {"blocks.0.weight": T}}, "epoch": 3}
    ->  tensors  model/vision/blocks.0.weight
        values   {"epoch": 3}

A pickle may lead back to itself, or name one list a billion times. The walk keeps its own stack, knows
which containers it stands in, and counts its steps. A dict or list inside itself is refused; an object
inside itself (a child that knows its parent) is cut there and said to be.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from dovetail.errors import FormatError
from dovetail.store.torchfile.pickle.numpy import Array
from dovetail.store.torchfile.pickle.pickled import Global, Opaque, Storage, TensorRecord, shown, type_name

_MAX_STEPS = 5_000_000
_FREE_STEPS = 100_000
_MAX_DEPTH = 64
_MAX_NAME = 2_000
_MAX_LETTERS = 100_000_000
_MAX_VALUES = 200_000
_MAX_TEXT = 16_000_000
_MAX_OCTETS = 256

# The name of a tensor that is not in any container: torch.save(tensor, PATH).
_BARE = "tensor"


class Flat(NamedTuple):
    """The tensors by name, and the rest as plain values with the tensors left out.

    `values` hold None, bool, int, float, str, list, tuple and dict: bytes are there as hexadecimal text,
    dates in ISO form, sets as sorted lists, objects as their fields, classes and functions as their
    names. `is_cut` tells that there are more than dovetail keeps.
    """

    tensors: dict[str, TensorRecord]
    values: Any
    is_cut: bool


def flatten(value: Any, *, file: str | None = None, size: int = _MAX_STEPS) -> Flat:
    """The tensors that a value holds, under the names that lead to them, and what else it holds.

    `size` is the length of the pickle: what is not shared takes a byte of it at least, so a walk that is
    much longer goes over the same things again and again.

    Raises:
        FormatError: it contains itself, holds too much, names a tensor by something other than text or
            an integer, or gives two tensors one name.
    """
    walk = _Walk(file, min(_MAX_STEPS, size + _FREE_STEPS))
    walk.run(value)
    return Flat(tensors=walk.tensors, values=walk.top.kept.get(_BARE, {}), is_cut=walk.is_cut)


class _Level:
    """A container on the way to where the walk stands; `kept` collects what is not tensors."""

    __slots__ = ("children", "container", "has_tensors", "is_named", "kept", "key")

    def __init__(
        self, container: Any, key: Any, children: Iterator[tuple[Any, Any]], *, is_named: bool
    ) -> None:
        self.container = container
        self.key = key
        self.children = children
        self.is_named = is_named
        self.kept: dict[Any, Any] = {}
        self.has_tensors = False

    @property
    def value(self) -> Any:
        """The container without its tensors."""
        if self.is_named:
            return self.kept
        return tuple(self.kept.values()) if type(self.container) is tuple else list(self.kept.values())


class _Walk:
    """One walk: where it stands, what it found, and what it spent."""

    def __init__(self, file: str | None, max_steps: int) -> None:
        self.file = file
        self.max_steps = max_steps
        self.tensors: dict[str, TensorRecord] = {}
        self.is_cut = False
        self.levels: list[_Level] = []
        self.inside: set[int] = set()
        self.steps = self.letters = self.num_values = self.text = 0

    @property
    def top(self) -> _Level:
        """The level above everything."""
        return self.levels[0]

    def run(self, root: Any) -> None:
        """Visits everything below `root`."""
        self.levels.append(_Level(None, None, iter([(_BARE, root)]), is_named=True))
        while True:
            level = self.levels[-1]
            for key, child in level.children:
                self.visit(level, key, child)
                if self.levels[-1] is not level:
                    break
            else:
                if level is self.top:
                    return
                self.leave(level)

    def visit(self, level: _Level, key: Any, child: Any) -> None:
        """Names a tensor, goes into a container, or keeps a plain value."""
        self.step(key)
        content = child
        while type(content) is Opaque and id(content) not in self.inside:
            self.step(key)
            content = content.content
        if type(content) is Array:
            content = content.plain()
        kind = type(content)
        if kind is TensorRecord:
            self.add(level, key, content)
        elif kind is Storage:
            self.add(level, key, TensorRecord(content, content.dtype, 0, (content.elements,), (1,)))
        elif isinstance(content, dict) or kind in (list, tuple, set, frozenset):
            self.enter(key, child, content)
        else:
            self.keep(level, key, _plain(content))

    def enter(self, key: Any, container: Any, content: Any) -> None:
        """Goes one level down, into the content of a container or object."""
        if id(container) in self.inside:
            raise self.error(f"a {type_name(container)} contains itself", key)
        if len(self.levels) > _MAX_DEPTH:
            raise self.error("the pickle is nested too deeply", key, expected=f"at most {_MAX_DEPTH} levels")
        self.inside.add(id(container))
        if isinstance(content, dict):
            self.levels.append(_Level(container, key, iter(content.items()), is_named=True))
        else:
            items = sorted(content, key=_order) if isinstance(content, set | frozenset) else content
            self.levels.append(_Level(container, key, enumerate(items), is_named=False))

    def leave(self, level: _Level) -> None:
        """Goes one level up, and keeps there what is left of this one."""
        self.levels.pop()
        self.inside.discard(id(level.container))
        parent = self.levels[-1]
        if level.kept:
            parent.kept[_plain_key(level.key)] = level.value
        elif level.has_tensors:
            parent.has_tensors = True
        else:
            self.keep(parent, level.key, level.value)

    def add(self, level: _Level, key: Any, tensor: TensorRecord) -> None:
        """Gives a tensor the name that leads to it."""
        keys = [*(above.key for above in self.levels[2:]), key]
        for part in keys:
            if type(part) is not str and type(part) is not int:
                raise self.error(
                    f"a tensor is kept under a {type_name(part)}", key, expected="text or an integer"
                )
        name = "/".join(map(str, keys))
        self.letters += len(name)
        if len(name) > _MAX_NAME or self.letters > _MAX_LETTERS:
            raise self.error(
                "the names of the tensors are too long", key, expected=f"at most {_MAX_NAME:,} letters"
            )
        if name in self.tensors:
            raise self.error(f"two tensors have the name {shown(name)}", key)
        self.tensors[name] = tensor
        level.has_tensors = True

    def keep(self, level: _Level, key: Any, value: Any) -> None:
        """Keeps a plain value, while there is room."""
        self.num_values += 1
        self.text += len(value) if type(value) is str else 0
        if self.num_values > _MAX_VALUES or self.text > _MAX_TEXT:
            self.is_cut = True
        else:
            level.kept[_plain_key(key)] = value

    def step(self, key: Any) -> None:
        """Counts the work."""
        self.steps += 1
        if self.steps > self.max_steps:
            raise self.error(
                "the pickle leads to too many values", key, expected=f"at most {self.max_steps:,}"
            )

    def error(self, message: str, key: Any, **details: str) -> FormatError:
        """A refusal, with the way to where it happened: at most its last four steps."""
        keys = [*(level.key for level in self.levels[2:]), key]
        way = "/".join(shown(part, 40) for part in keys[-4:])
        place = way if len(keys) <= 4 else f".../{way}"
        return FormatError(message, file=self.file or "a pickle", place=place, **details)


def _plain_key(key: Any) -> Any:
    """A dict key as one that JSON knows."""
    return key if type(key) in (str, int, float, bool) else _plain(key)


def _plain(value: Any) -> Any:
    """A value that is no container, as one that JSON knows."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _MAX_OCTETS else f"{len(value):,} bytes"
    if type(value) is Global:
        return value.path
    if type(value) is Opaque:
        return _plain(value.arguments[0]) if value.is_member else f"<{value.class_name}>"
    import datetime

    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _order(value: Any) -> tuple[str, str]:
    """How members of a set are sorted: by type, then as text."""
    return type_name(value), str(_plain(value))[:_MAX_OCTETS]
