"""A page as lines of a width, or of any: lines are broken between words, and names never.

What stands in backticks is one word, however many spaces it has, so that a command can be copied.
"""

import re
from itertools import pairwise, zip_longest

from dovetail.errors import printable
from dovetail.render.page import Line, Page, Table

_GAP = 2
# How wide a column stays where a table is too wide: the last one, others, those of numbers and short values.
_LAST, _WORDS, _VALUES = 16, 24, 12
_INDENT = "    "
_WORD = re.compile(r"(?:`[^`]*`|\S)+\s*")
_LEAD = re.compile(r"\s*(?:\w[\w ]{0,11}: +|\w+ {2,})?")


def lay_out(page: Page, width: int | None = None) -> list[Line]:
    """The page as lines alone, none longer than the width unless a word is; without one, unbroken."""
    lines: list[Line] = []
    for block in page:
        if isinstance(block, Table):
            lines += _table(block, width)
        else:
            text = printable(block.text)
            hang = len(match[0]) if (match := _LEAD.match(text)) else 0
            lines += [Line(one, block.style) for one in wrapped(text, width, hang=max(hang, _GAP))]
    return lines


def wrapped(text: str, width: int | None, *, hang: int = 0) -> list[str]:
    """The text in lines, those after the first set in by `hang`.

    >>> wrapped("run `dovetail inspect a` and read it", 20, hang=2)
    ['run', '  `dovetail inspect a`', '  and read it']
    """
    if width is None or cells(text) <= width:
        return [text]
    start = text[: len(text) - len(text.lstrip())]
    lines, line = [], start
    for word in _WORD.findall(text):
        if line.strip() and cells(line) + cells(word.rstrip()) > width:
            lines.append(line.rstrip())
            line = " " * hang
        line += word
    return [*lines, line.rstrip()]


def cells(text: str) -> int:
    """The columns of a terminal that a text takes; letters of East Asia take two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def _table(table: Table, width: int | None) -> list[Line]:
    """The rows under their heads; what does not fit beside each other goes below, set in."""
    is_right = [column.startswith(">") for column in table.columns]
    heads = tuple(column.lstrip(">") for column in table.columns)
    rows = [tuple(map(printable, row)) for row in table.rows]
    total = tuple(map(printable, table.total or ()))
    columns = [*zip(*(row for row in (heads, *rows, total) if row), strict=True)]
    widths = [max(map(cells, column)) for column in columns]
    groups = [(0, len(widths))]
    if width is not None:
        if sum(widths) + _GAP * (len(widths) - 1) > width:
            for i, right in enumerate(is_right[:-1]):
                least = _VALUES if right else _WORDS
                widths[i] = min(widths[i], max(least, *map(_longest, columns[i])))
        groups, room = _groups([*widths[:-1], min(widths[-1], _LAST)], width)
        widths[-1] = min(widths[-1], room)

    def drawn(row: tuple[str, ...]) -> list[str]:
        return [line for group in groups for line in _row(row, group, widths, is_right, width)]

    lines = [Line(line, "head") for line in drawn(heads)]
    body = [Line(line) for row in rows for line in drawn(row)]
    end = [Line(line, "head") for line in drawn(total)] if total else []
    rule = [Line("─" * max(cells(line.text) for line in (*lines, *body, *end)), "dim")] if width else []
    return [*lines, *rule, *body, *(rule if end else []), *end]


def _groups(widths: list[int], width: int) -> tuple[list[tuple[int, int]], int]:
    """Which columns stand beside each other, from where to where, and what is left for the last one."""
    starts, end = [0], 0
    for i, wide in enumerate(widths):
        if i and end + _GAP + wide > width:
            starts.append(i)
            end = len(_INDENT) + wide
        else:
            end += wide + (_GAP if i else 0)
    return [*pairwise([*starts, len(widths)])], width - (end - widths[-1])


def _row(
    row: tuple[str, ...],
    group: tuple[int, int],
    widths: list[int],
    is_right: list[bool],
    width: int | None,
) -> list[str]:
    """Some columns of a row as lines: more than one if a cell is broken.

    The last cell of the table goes below the others if one of its words has no room beside them.
    """
    first, end = group
    last = len(row) - 1
    is_below = end > last > first and width is not None and _longest(row[last]) > widths[last]
    shown = range(first, last if is_below else end)
    broken = [wrapped(row[i], widths[i] if width is not None else None) for i in shown]
    lines = []
    for pieces in zip_longest(*broken, fillvalue=""):
        placed = [_placed(one, widths[i], is_right[i]) for i, one in zip(shown, pieces, strict=True)]
        lines.append(((_INDENT if first else "") + (" " * _GAP).join(placed)).rstrip())
    if is_below and width is not None:
        lines += [f"{_INDENT}{one}" for one in wrapped(row[last], width - len(_INDENT))]
    return [line for line in lines if line or not first]


def _placed(text: str, width: int, is_right: bool) -> str:
    space = " " * (width - cells(text))
    return space + text if is_right else text + space


def _longest(text: str) -> int:
    """The width of its longest word."""
    return max((cells(word.rstrip()) for word in _WORD.findall(text)), default=0)
