"""A pickle machine that runs no code: opcodes in, plain values and inert records out.

The opcodes are those of CPython's `Lib/pickletools.py`, protocols 0 to 5. What the machine never does
is import or call anything the file names:

- GLOBAL and STACK_GLOBAL give a name (`Global`). Naming is not calling, so a name is always allowed.
- REDUCE, OBJ and INST call. A name on the allow-list (`pickle_calls.py`) is answered from its arguments;
  any other is refused by name. One exception: somebody's own class called with one plain value is
  how Python pickles an enum member, and is kept as a record of the two.
- NEWOBJ and NEWOBJ_EX make an object, BUILD and SETITEMS fill it. A class that is on the allow-list
  is answered likewise; one of Python, torch or numpy that is not is refused by name; somebody's own
  becomes an `Opaque` record, and its fields can be read. All names outside the list are reported.
- EXT1, EXT2 and EXT4 look a function up in a registry of the running Python, and are refused.

Nothing recurses. Strings cannot be longer than the file, a memo index reserves nothing, and containers,
memo entries and what calls copy are counted, so memory is bounded by the file and a constant.
"""

from typing import Any, NamedTuple

from dovetail.errors import CheckpointError, FormatError
from dovetail.store.torchfile.pickle.machine import Machine
from dovetail.store.torchfile.pickle.opcodes import HANDLERS, STOP
from dovetail.store.torchfile.pickle.pickled import TensorRecord

MAX_PICKLE = 100_000_000


class Unpickled(NamedTuple):
    """What a pickle holds.

    `opaque` lists the classes and functions that it names and dovetail does not know; objects of them are
    `Opaque` records. `tensors` are all that it rebuilds, whether or not the value still leads to them.
    """

    value: Any
    opaque: tuple[str, ...]
    tensors: tuple[TensorRecord, ...]


def unpickle(data: bytes, *, file: str | None = None) -> Unpickled:
    """The value that a pickle describes; nothing of the file is run.

    Raises:
        UnsafeError: it would call something that is not on the allow-list.
        FormatError: it is no well-formed pickle, or rebuilds a tensor from arguments that make none.
    """
    machine = Machine(data)
    try:
        value = _run(machine)
    except CheckpointError as error:
        error.details = {"file": file or "a pickle", "place": machine.place(), **error.details}
        raise
    return Unpickled(value=value, opaque=tuple(machine.opaque), tensors=tuple(machine.tensors))


def _run(machine: Machine) -> Any:
    """Executes opcodes until STOP; gives the value that is left."""
    data, end, handlers = machine.data, machine.end, HANDLERS
    if end > MAX_PICKLE:
        raise FormatError(f"the pickle is {end:,} bytes long", expected=f"at most {MAX_PICKLE:,}")
    try:
        while machine.position < end:
            machine.opcode_at = at = machine.position
            machine.position = at + 1
            if data[at] == STOP:
                return machine.finish()
            handlers[data[at]](machine)
    except IndexError:
        raise FormatError("the pickle takes a value from an empty stack") from None
    raise FormatError("the pickle ends before its STOP", hint="the file was cut off; fetch it again")
