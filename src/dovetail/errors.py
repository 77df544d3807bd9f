"""The exceptions that dovetail raises, and nothing else does.

    DovetailError
    ├── UsageError          the command or the call is wrong                         exit 2
    ├── CheckpointError     a file is not what it should be                          exit 1
    │   ├── FormatError     it breaks the rules of its own format
    │   ├── UnsafeError     reading it would mean running code from it
    │   └── MissingError    something it names is not there
    ├── RemoteError         a server did not give what was asked for                 exit 1
    ├── DeclarationError    a family, part or layout is declared wrongly             exit 3
    └── WriteError          the output could not be written                          exit 1

A message says what, then where, then expected against found, then the next step:

>>> print(FormatError("header is truncated", file="model.safetensors", hint="download it again"))
header is truncated
  file  model.safetensors
<BLANKLINE>
hint: download it again
"""


class DovetailError(Exception):
    """Anything dovetail refuses, with where it happened and what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = {key: str(value) for key, value in details.items() if value is not None}

    def __str__(self) -> str:
        width = max((len(key) for key in self.details), default=0)
        lines = [printable(self.message)]
        lines += [f"  {key:<{width}}  {printable(value)}" for key, value in self.details.items()]
        if self.hint:
            lines += ["", f"hint: {printable(self.hint)}"]
        return "\n".join(lines)


class UsageError(DovetailError):
    """The command line or the call is wrong."""

    exit_code = 2


class CheckpointError(DovetailError):
    """A checkpoint is not what it should be."""


class FormatError(CheckpointError):
    """A file breaks the rules of its own format."""


class UnsafeError(CheckpointError):
    """Reading the file would mean running code from it."""


class MissingError(CheckpointError):
    """A file or tensor that is named somewhere does not exist."""


class RemoteError(DovetailError):
    """A server did not give what was asked for."""


class DeclarationError(DovetailError):
    """A family, part or layout is declared wrongly."""

    exit_code = 3


class WriteError(DovetailError):
    """The output could not be written; what is kept of it, and how to go on, is said."""


def printable(text: str) -> str:
    r"""The text with every character that does not print as its escape: controls, bidi marks, surrogates.

    >>> printable("a\u202eb")
    'a\\u202eb'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def listed(names: object, limit: int = 10) -> str:
    """The first names of a collection on one line, and how many more there are.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    items = [str(name) for name in names]  # type: ignore[attr-defined]
    shown = ", ".join(items[:limit])
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown
