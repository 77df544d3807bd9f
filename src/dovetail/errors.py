"""The exceptions that dovetail raises, and nothing else does.

    DovetailError
    ├── UsageError          the command or the call is wrong                         exit 2
    ├── CheckpointError     a file is not what it should be                          exit 1
    │   ├── FormatError     it breaks the rules of its own format
    │   ├── UnsafeError     reading it would mean running code from it
    │   └── MissingError    something it names is not there
    ├── DataError           a manifest, a sample or what it names is not as it should be   exit 1
    ├── RemoteError         a server did not give what was asked for                 exit 1
    ├── DeclarationError    a family, part or layout is declared wrongly             exit 3
    ├── WriteError          the output could not be written                          exit 1
    └── InternalError       a bug in dovetail: only the command line makes one       exit 3

A message says what, then where, then expected against found, then the next step:

>>> print(FormatError("header is truncated", file="model.safetensors", hint="download it again"))
header is truncated
  file  model.safetensors
<BLANKLINE>
hint: download it again

Every error has a next step: its own `hint`, else that of its class.
"""

from collections.abc import Iterable
from typing import Any, ClassVar


class DovetailError(Exception):
    """Anything dovetail refuses, with where it happened and what to do next."""

    exit_code: ClassVar[int] = 1
    next_step: ClassVar[str] = "`dovetail --help` lists what there is"

    def __init__(self, message: str, *, hint: str | None = None, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.next_step
        self.details = {key: str(value) for key, value in details.items() if value is not None}

    @property
    def lines(self) -> list[tuple[str, str]]:
        """What is said, line by line: what a line begins with, and its text."""
        width = max((len(key) for key in self.details), default=0)
        details = [(f"  {key:<{width}}  ", printable(value)) for key, value in self.details.items()]
        return [("", printable(self.message)), *details, ("", ""), ("hint: ", printable(self.hint))]

    def __str__(self) -> str:
        return "\n".join(lead + text for lead, text in self.lines)

    def as_json(self) -> dict[str, Any]:
        """The error as plain JSON values, in the documented order."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "details": self.details,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class UsageError(DovetailError):
    """The command line or the call is wrong."""

    exit_code = 2
    next_step = "`dovetail VERB --help` says what may be given"


class CheckpointError(DovetailError):
    """A checkpoint is not what it should be."""

    next_step = "`dovetail validate CKPT` says all that is wrong with it"


class FormatError(CheckpointError):
    """A file breaks the rules of its own format."""

    next_step = "fetch the file again, or have the tool that wrote it write it anew"


class UnsafeError(CheckpointError):
    """Reading the file would mean running code from it."""

    next_step = "ask its publisher for safetensors, or for torch.save of a plain state dict"


class MissingError(CheckpointError):
    """A file or tensor that is named somewhere does not exist."""

    next_step = "finish the copy or download, or correct the name"


class DataError(DovetailError):
    """What is to be learned from is not what it should be: a manifest, a record of it, an image it names."""

    next_step = "correct the record in its manifest, or take it out"


class RemoteError(DovetailError):
    """A server did not give what was asked for."""

    next_step = "try again; if it stays so, fetch the files by other means and give their folder"


class DeclarationError(DovetailError):
    """A family, part or layout is declared wrongly."""

    exit_code = 3
    next_step = "correct the declaration; docs/guides/family.md says how one is written"


class WriteError(DovetailError):
    """The output could not be written; what is kept of it, and how to go on, is said."""

    next_step = "mend the cause or choose another place, then run the command again"


class InternalError(DovetailError):
    """A bug in dovetail, as the command line reports it."""

    exit_code = 3
    next_step = "this is a bug in dovetail; please report it with the command and the lines above"


def printable(text: str) -> str:
    r"""The text with every character that does not print as its escape: controls, bidi marks, surrogates.

    >>> printable("a\u202eb")
    'a\\u202eb'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


# Words that share this much of their letters may be meant for each other.
_ALIKE = 0.7


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint for a word that nobody knows: what it is close to, then what there is.

    >>> suggestion("Qwen2-VL", ["llama", "qwen2_vl"], "there are two")
    'did you mean `qwen2_vl`? there are two'
    >>> suggestion("x", ["llama", "qwen2_vl"], "there are two")
    'there are two'
    """
    near = nearest(word, known)
    return f"did you mean `{near}`? {otherwise}" if near else otherwise


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one is most like, if it is like any."""
    from difflib import SequenceMatcher

    asked, spelled = bare(word), {bare(one): one for one in known}
    alike = {one: SequenceMatcher(None, one, asked).ratio() for one in spelled}
    near = max(alike, key=alike.__getitem__, default="")
    if near and alike[near] >= _ALIKE:
        return spelled[near]
    return next((spelled[one] for one in spelled if len(asked) > 1 and asked in one), None)


def bare(word: str) -> str:
    """A word without what people spell in several ways.

    >>> bare("Qwen2.5-VL")
    'qwen25vl'
    """
    return "".join(letter for letter in word.lower() if letter not in "-_. ")


def listed(names: object, limit: int = 10) -> str:
    """The first names of a collection on one line, and how many more there are.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    items = [str(name) for name in names]  # type: ignore[attr-defined]
    shown = ", ".join(items[:limit])
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown
