"""The opcodes of pickle protocols 0 to 5, each as the function that carries it out on a `Machine`.

Their meaning is documented in CPython's `Lib/pickletools.py`. Opcodes that differ in the width of an
argument only are made by one function; the table at the end is the whole list.
"""

import struct
from collections.abc import Callable
from typing import Any

from dovetail.errors import FormatError, UnsafeError
from dovetail.store.torchfile.pickle.machine import Machine, decoded
from dovetail.store.torchfile.pickle.pickled import Global, Opaque, Record, shown, type_name
from dovetail.store.torchfile.pickle.tensors import storage_of

STOP = ord(".")
_MAX_DEPTH = 1000
_FIRST_ITEM = 3  # a dict with an item takes four times as much memory as an empty one or a list
_HINT = "do not load this file with torch.load(weights_only=False)"

_Handler = Callable[[Machine], None]


def _unknown(machine: Machine) -> None:
    code = machine.data[machine.opcode_at]
    raise FormatError(f"byte {code:#04x} is not an opcode of pickle protocols 0 to 5")


def _protocol(machine: Machine) -> None:
    if (version := machine.number(1)) > 5:
        raise FormatError(f"the pickle is of protocol {version}", expected="0 to 5")


def _frame(machine: Machine) -> None:
    length, left = machine.number(8), machine.end - machine.position
    if length > left:
        expected, found = f"at most {left:,} bytes", f"{length:,}"
        raise FormatError("a frame of the pickle runs past its end", expected=expected, found=found)


def _constant(value: Any) -> _Handler:
    def constant(machine: Machine) -> None:
        machine.stack.append(value)

    return constant


def _empty(kind: Callable[[], Any]) -> _Handler:
    cost = 4 if kind is set else 1

    def empty(machine: Machine) -> None:
        machine.spend(cost)
        machine.stack.append(kind())

    return empty


def _integer(width: int, *, signed: bool = False) -> _Handler:
    def integer(machine: Machine) -> None:
        machine.stack.append(int.from_bytes(machine.take(width), "little", signed=signed))

    return integer


def _long(width: int) -> _Handler:
    def long(machine: Machine) -> None:
        if (length := machine.number(width)) > 255:
            raise FormatError(f"an integer in the pickle is {length:,} bytes long", expected="at most 255")
        machine.stack.append(int.from_bytes(machine.take(length), "little", signed=True))

    return long


def _integer_line(machine: Machine) -> None:
    """`I01` and `I00` are True and False; a long may end with `L`."""
    line = decoded(machine.line()).removesuffix("L")
    digits = line.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 600):
        raise FormatError(f"an integer in the pickle is written {shown(line)}")
    machine.stack.append({"00": False, "01": True}.get(line, int(line)))


def _float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _float_line(machine: Machine) -> None:
    line = decoded(machine.line())
    try:
        machine.stack.append(float(line))
    except ValueError:
        raise FormatError(f"a number in the pickle is written {shown(line)}") from None


def _text(width: int) -> _Handler:
    def text(machine: Machine) -> None:
        machine.stack.append(decoded(machine.take(machine.number(width))))

    return text


def _text_line(machine: Machine) -> None:
    line = machine.line()
    try:
        text = line.decode("raw-unicode-escape")
        text.encode()
    except UnicodeError:
        raise FormatError(f"a text in the pickle is written {shown(line.decode('latin-1'))}") from None
    machine.stack.append(text)


def _old_text(width: int) -> _Handler:
    """Python 2's str: text where it is UTF-8, else bytes."""

    def old_text(machine: Machine) -> None:
        data = machine.take(machine.number(width))
        try:
            machine.stack.append(data.decode())
        except UnicodeDecodeError:
            machine.stack.append(data)

    return old_text


def _old_text_line(machine: Machine) -> None:
    line = decoded(machine.line())
    if len(line) < 2 or line[0] not in "'\"" or line[0] != line[-1] or "\\" in line:
        raise FormatError(f"a text in the pickle is written {shown(line)}", expected="quotes, no escapes")
    machine.stack.append(line[1:-1])


def _octets(width: int) -> _Handler:
    def octets(machine: Machine) -> None:
        machine.stack.append(machine.take(machine.number(width)))

    return octets


def _tuple(length: int) -> _Handler:
    def tuple_(machine: Machine) -> None:
        machine.spend()
        stack = machine.stack
        if length > len(stack):
            raise IndexError
        stack[-length:] = [tuple(stack[-length:])]

    return tuple_


def _from_mark(kind: Callable[[list[Any]], Any]) -> _Handler:
    def from_mark(machine: Machine) -> None:
        machine.spend()
        items = machine.since_mark()
        machine.stack.append(kind(items))

    return from_mark


def _mark(machine: Machine) -> None:
    if len(machine.marks) >= _MAX_DEPTH:
        raise FormatError("the pickle is nested too deeply", expected=f"at most {_MAX_DEPTH:,} open MARKs")
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    """Drops a value; on an empty stack it drops the MARK, as CPython does."""
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


def _pop_mark(machine: Machine) -> None:
    machine.since_mark()


def _duplicate(machine: Machine) -> None:
    machine.stack.append(machine.stack[-1])


def _remember(machine: Machine, index: int) -> None:
    machine.room -= 1
    if machine.room < 0:
        machine.spend(0)
    machine.memo[index] = machine.stack[-1]


def _put(width: int) -> _Handler:
    def put(machine: Machine) -> None:
        _remember(machine, int.from_bytes(machine.take(width), "little"))

    return put


def _put_line(machine: Machine) -> None:
    _remember(machine, _index(machine))


def _memoize(machine: Machine) -> None:
    _remember(machine, len(machine.memo))


def _recall(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        raise FormatError(f"the pickle recalls value {index:,}, which it did not store")
    machine.stack.append(machine.memo[index])


def _get(width: int) -> _Handler:
    def get(machine: Machine) -> None:
        _recall(machine, int.from_bytes(machine.take(width), "little"))

    return get


def _get_line(machine: Machine) -> None:
    _recall(machine, _index(machine))


def _index(machine: Machine) -> int:
    line = decoded(machine.line())
    if not (line.isascii() and line.isdigit() and len(line) <= 12):
        raise FormatError(f"a memo index in the pickle is written {shown(line)}")
    return int(line)


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    _elements(machine.stack[-1]).append(item)


def _appends(machine: Machine) -> None:
    items = machine.since_mark()
    _elements(machine.stack[-1]).extend(items)


def _elements(target: Any) -> list[Any]:
    if type(target) is Opaque:
        return target.elements
    if type(target) is not list:
        raise FormatError(f"the pickle appends to a `{type_name(target)}`", expected="a list")
    return target


def _add_items(machine: Machine) -> None:
    items = machine.since_mark()
    if type(target := machine.stack[-1]) is not set:
        raise FormatError(f"the pickle adds members to a `{type_name(target)}`", expected="a set")
    target.update([machine.key(item) for item in items])


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _fill(machine, _items(machine.stack[-1]), [key, value])


def _set_items(machine: Machine) -> None:
    pairs = machine.since_mark()
    _fill(machine, _items(machine.stack[-1]), pairs)


def _fill(machine: Machine, target: dict[Any, Any], pairs: list[Any]) -> None:
    if len(pairs) % 2:
        raise FormatError("the pickle fills a dict with a key that has no value")
    if pairs and not target:
        machine.spend(_FIRST_ITEM)
    for position in range(0, len(pairs), 2):
        target[machine.key(pairs[position])] = pairs[position + 1]


def _items(target: Any) -> dict[Any, Any]:
    if type(target) is Opaque:
        return target.items
    if not isinstance(target, dict):
        raise FormatError(f"the pickle sets items of a `{type_name(target)}`", expected="a dict")
    return target


def _dict(machine: Machine) -> None:
    machine.spend()
    made: dict[Any, Any] = {}
    _fill(machine, made, machine.since_mark())
    machine.stack.append(made)


def _frozen_set(machine: Machine) -> None:
    machine.spend(4)
    items = machine.since_mark()
    machine.stack.append(frozenset([machine.key(item) for item in items]))


def _global_lines(machine: Machine) -> None:
    module, name = decoded(machine.line()), decoded(machine.line())
    machine.stack.append(machine.name(module, name))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.name(module, name))


def _reduce(machine: Machine) -> None:
    arguments, target = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(target, arguments))


def _new_object(machine: Machine) -> None:
    arguments, target = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(target, arguments, makes_object=True))


def _new_object_with_names(machine: Machine) -> None:
    named, arguments, target = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    made = machine.call(target, arguments, makes_object=True)
    if named:
        if type(made) is not Opaque or not isinstance(named, dict):
            raise FormatError(f"the pickle makes a `{type_name(target)}` with named arguments")
        made.items.update(named)
    machine.stack.append(made)


def _object(machine: Machine) -> None:
    target, *arguments = machine.since_mark() or [None]
    machine.stack.append(machine.call(target, tuple(arguments)))


def _instance(machine: Machine) -> None:
    target = machine.name(decoded(machine.line()), decoded(machine.line()))
    machine.stack.append(machine.call(target, tuple(machine.since_mark())))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, Record):
        target.build(state)
    elif type(target) is Global:
        raise UnsafeError(f"the pickle would change `{target.path}`", hint=_HINT)
    elif not (type(target) is dict and isinstance(state, dict) and state.keys() <= {"_metadata"}):
        # A state dict is an OrderedDict with `_metadata`: versions of modules, nothing of the weights.
        raise FormatError(f"the pickle sets fields of a `{type_name(target)}`")


def _persistent(machine: Machine) -> None:
    machine.spend()
    machine.stack.append(storage_of(machine.stack.pop()))


def _persistent_line(machine: Machine) -> None:
    text = shown(decoded(machine.line()))
    raise FormatError(f"a persistent id is the text {text}", expected="a tuple, as torch writes")


def _extension(width: int) -> _Handler:
    def extension(machine: Machine) -> None:
        code = machine.number(width)
        raise UnsafeError(f"the pickle would call what `copyreg` has under the code {code}", hint=_HINT)

    return extension


def _buffer(machine: Machine) -> None:
    hint = "save it without buffer_callback"
    raise FormatError("the pickle refers to a buffer outside itself (protocol 5)", hint=hint)


_OPCODES: dict[str, _Handler] = {
    # stack and memo
    "(": _mark, "0": _pop, "1": _pop_mark, "2": _duplicate,
    "p": _put_line, "q": _put(1), "r": _put(4), "\x94": _memoize,
    "g": _get_line, "h": _get(1), "j": _get(4),
    # constants and numbers
    "N": _constant(None), "\x88": _constant(True), "\x89": _constant(False),
    "I": _integer_line, "L": _integer_line, "K": _integer(1), "M": _integer(2), "J": _integer(4, signed=True),
    "\x8a": _long(1), "\x8b": _long(4), "F": _float_line, "G": _float,
    # text and bytes
    "V": _text_line, "\x8c": _text(1), "X": _text(4), "\x8d": _text(8),
    "S": _old_text_line, "U": _old_text(1), "T": _old_text(4),
    "C": _octets(1), "B": _octets(4), "\x8e": _octets(8), "\x96": _octets(8),
    # containers
    "]": _empty(list), "}": _empty(dict), "\x8f": _empty(set), ")": _constant(()),
    "\x85": _tuple(1), "\x86": _tuple(2), "\x87": _tuple(3),
    "t": _from_mark(tuple), "l": _from_mark(list), "d": _dict, "\x91": _frozen_set,
    "a": _append, "e": _appends, "s": _set_item, "u": _set_items, "\x90": _add_items,
    # names, calls, objects
    "c": _global_lines, "\x93": _stack_global, "R": _reduce, "b": _build,
    "\x81": _new_object, "\x92": _new_object_with_names, "o": _object, "i": _instance,
    "Q": _persistent, "P": _persistent_line,
    "\x82": _extension(1), "\x83": _extension(2), "\x84": _extension(4),
    # framing
    "\x80": _protocol, "\x95": _frame, "\x97": _buffer, "\x98": _buffer,
}  # fmt: skip

HANDLERS = tuple(_OPCODES.get(chr(code), _unknown) for code in range(256))
