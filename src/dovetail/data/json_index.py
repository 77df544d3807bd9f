"""Where each record of a JSON file begins and ends, found in one pass with memory for the places alone.

A file is read as one of four forms, told by what it begins with:

    {…}\\n{…}\\n              records, one a line (also where the name ends in .jsonl or .ndjson)
    [{…}, {…}]               a list of records
    {"samples": [{…}, {…}]}  a list of records in a mapping
    {"a": {…}, "b": {…}}     a mapping of records

Places are found in bytes: read as Latin-1, every byte is one character, and what JSON is built of is the same
in UTF-8.
"""

import json
import re
from array import array
from collections.abc import Callable
from typing import IO, Literal, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int64

from dovetail.data.record import IMAGES, TURNS, VIDEOS
from dovetail.errors import DataError, listed

Form = Literal["lines", "list", "mapping"]
MAX_RECORD = 64 << 20  # bytes; a conversation with every image inside as text is smaller
_READ = 16 << 20
_LINES = (".jsonl", ".ndjson")
_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_SCAN = json.JSONDecoder()
_RECORD_KEYS = {*TURNS, *IMAGES, *VIDEOS}


class Index(NamedTuple):
    """Where each record begins and ends, in bytes; in a mapping with its key."""

    form: Form
    begins: Int64[np.ndarray, " records"]
    ends: Int64[np.ndarray, " records"]


def index_of(file: IO[bytes], name: str) -> Index:
    """The places of the records of a file that is open at its beginning.

    Raises:
        DataError: it is no JSON, or it holds something else than records.
    """
    head = file.read(1 << 16)
    start = len(_BOM) if head.startswith(_BOM) else 0
    first = head[start:].lstrip()[:1]
    if first not in (b"[", b"{"):
        raise DataError(
            "this is no JSON: neither a list nor a mapping begins here",
            file=name,
            begins=repr(head[:24]),
            hint="a manifest is .json, .jsonl, .yaml, .tar shards or a folder that `datasets` saved",
        )
    if first == b"{" and (name.lower().endswith(_LINES) or _is_lines(file, start, name)):
        return _index_lines(file, start, name)
    return _Scan(file, start, name).index()


def _is_lines(file: IO[bytes], start: int, name: str) -> bool:
    """Whether the first line is a record by itself and more follows."""
    file.seek(start)
    line = file.readline(MAX_RECORD).strip() or file.readline(MAX_RECORD).strip()
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return file.read(64).lstrip()[:1] == b"{"


def _index_lines(file: IO[bytes], start: int, name: str) -> Index:
    """The lines that are not empty.

    Raises:
        DataError: one is too long.
    """
    file.seek(start)
    offset, breaks = start, []
    while block := file.read(_READ):
        breaks.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + offset)
        offset += len(block)
    after = np.concatenate([*breaks, [offset]]).astype(np.int64)
    begins = np.concatenate([[start], after[:-1] + 1]).astype(np.int64)
    lengths = after - begins
    if (long := int(lengths.max(initial=0))) > MAX_RECORD:
        raise DataError(
            "a line is too long for a record",
            file=name,
            line=int(lengths.argmax()) + 1,
            expected=f"at most {MAX_RECORD:,} bytes",
            found=f"{long:,}",
            hint="write one record a line, and name images instead of writing them into the manifest",
        )
    short = np.flatnonzero(lengths <= 1)
    is_kept = lengths > 1
    for i in short[lengths[short] == 1]:  # a lone carriage return is an empty line, anything else is read
        file.seek(int(begins[i]))
        is_kept[i] = not file.read(1).isspace()
    return Index("lines", begins[is_kept], after[is_kept])


class _Scan:
    """A file of one JSON value, read piece by piece."""

    def __init__(self, file: IO[bytes], start: int, name: str) -> None:
        self._file, self._name = file, name
        self._base = start  # where in the file the text begins
        self._text, self._at, self._is_end = "", 0, False
        self._begins, self._ends = array("q"), array("q")
        file.seek(start)

    def index(self) -> Index:
        """The records of the list or mapping.

        Raises:
            DataError: it is no JSON, or holds something else than records.
        """
        form: Form = "list" if self._next() == "[" else "mapping"
        if form == "list":
            self._list()
        elif self._mapping():
            form = "list"
        if self._next():
            self._refuse("something stands behind the end of the JSON")
        return Index(form, np.array(self._begins, np.int64), np.array(self._ends, np.int64))

    def _list(self) -> None:
        self._items("]", self._record)

    def _mapping(self) -> bool:
        """Indexes the records of a mapping; whether they stand in a list, or the whole is one record."""
        begin, keys, others = self._base + self._at, set[str](), list[str]()
        is_list = False

        def member() -> None:
            nonlocal is_list
            start = self._base + self._at
            key = self._value()
            if not isinstance(key, str):
                self._refuse("a mapping has a key that is no text")
            if key in keys:
                self._refuse(f"the JSON names `{key[:60]}` twice", "one of the two is wrong")
            keys.add(key)
            if self._next() != ":":
                self._refuse("a `:` is missing")
            self._at += 1
            kind = self._next()
            if key == "samples" and kind == "[":
                is_list = True
                self._begins, self._ends = array("q"), array("q")
                self._list()
            elif kind == "{" and not is_list:
                self._value()
                self._begins.append(start)
                self._ends.append(self._base + self._at)
            else:
                self._value()
                others.append(key)

        self._items("}", member)
        if is_list:
            return True
        if keys & _RECORD_KEYS:
            self._begins, self._ends = array("q", [begin]), array("q", [self._base + self._at])
            return True
        if others:
            raise DataError(
                f"{listed(others, 3)} in the mapping {'is' if len(others) == 1 else 'are'} no record",
                file=self._name,
                hint='records stand in a list, under "samples", or each under a key of its own',
            )
        return False

    def _items(self, close: str, item: Callable[[], None]) -> None:
        """Reads what stands between brackets, each by `item`."""
        self._at += 1
        if self._next() == close:
            self._at += 1
            return
        while True:
            self._next()
            item()
            mark = self._next()
            self._at += 1
            if mark == close:
                return
            if mark != ",":
                self._at -= 1
                self._refuse("the JSON ends in the middle" if not mark else f"a `,` or `{close}` is missing")

    def _record(self) -> None:
        if self._next() != "{":
            self._refuse(f"record {len(self._begins)} is no mapping")
        begin = self._base + self._at
        self._value()
        self._begins.append(begin)
        self._ends.append(self._base + self._at)

    def _next(self) -> str:
        """The next character that is no space, "" at the end; stops before it."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _value(self) -> object:
        """Reads one value.

        Raises:
            DataError: it is no JSON, nested too deep, or too long.
        """
        while True:
            try:
                value, end = _SCAN.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 16
                if not (is_cut and self._read()):
                    self._refuse(f"record {len(self._begins)} is no JSON: {error.msg}", at=error.pos)
                continue
            except RecursionError:
                self._refuse(f"record {len(self._begins)} is nested too deep")
            except ValueError as error:  # a number of more digits than Python reads
                self._refuse(f"record {len(self._begins)} is no JSON that can be read: {error}")
            if end == len(self._text) and self._read():
                continue
            self._at = end
            return value

    def _read(self) -> bool:
        """Adds to the text; False at the end of the file."""
        if len(self._text) - self._at > MAX_RECORD:
            self._refuse(f"record {len(self._begins)} is longer than {MAX_RECORD:,} bytes")
        more = self._file.read(max(_READ, len(self._text) - self._at))
        self._base += self._at
        self._text, self._at = self._text[self._at :] + more.decode("latin-1"), 0
        return bool(more)

    def _refuse(self, what: str, hint: str | None = None, at: int | None = None) -> NoReturn:
        """Says what is wrong where.

        Raises:
            DataError: always.
        """
        place = self._base + (self._at if at is None else at)
        raise DataError(what, file=self._name, line=line_of(self._file, place), byte=place, hint=hint)


def line_of(file: IO[bytes], place: int) -> int:
    """The number of the line, from 1, in which a byte stands."""
    file.seek(0)
    line = 1
    while place > 0 and (block := file.read(min(_READ, place))):
        line += block.count(b"\n")
        place -= len(block)
    return line
