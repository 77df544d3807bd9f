"""A page on a terminal: lines of its width, and colours.

`NO_COLOR` turns colours off, `FORCE_COLOR` gives them to a pipe, where lines stay whole; a terminal that
is called dumb gets none. Meaning is never by colour alone.
"""

import os
import sys
from typing import TextIO

from dovetail.render.layout import lay_out
from dovetail.render.page import Page

# what a style is in the words of ECMA-48, and the colour that NO_COLOR leaves out
_STYLES = {
    "title": ("1", ""),
    "head": ("1", ""),
    "dim": ("2", ""),
    "error": ("1", "31"),
    "warning": ("", "33"),
    "note": ("", "36"),
    "good": ("1", "32"),
}


def show(page: Page, stream: TextIO | None = None) -> None:
    """Writes the page: drawn if a terminal reads it, plain if it is piped."""
    stream = stream or sys.stdout
    lines = [painted(line.text, line.style, stream) for line in lay_out(page, width_of(stream))]
    stream.write("".join(f"{line}\n" for line in lines))


def painted(text: str, style: str, stream: TextIO) -> str:
    """The text in its style, where the reader of the stream can show it."""
    weight, colour = _STYLES.get(style, ("", ""))
    codes = [weight, "" if os.environ.get("NO_COLOR") else colour]
    if not text.strip() or not any(codes) or not _is_styled(stream):
        return text
    return f"\x1b[{';'.join(filter(None, codes))}m{text}\x1b[0m"


def _is_styled(stream: TextIO) -> bool:
    if stream.isatty():
        return os.environ.get("TERM") not in ("dumb", "unknown")
    return bool(os.environ.get("FORCE_COLOR"))


def width_of(stream: TextIO) -> int | None:
    """The columns of the terminal that reads a stream; None if none does."""
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
