"""A page as plain text: for pipes, files and logs. Imports nothing heavy.

Names come from files that nobody vouches for; what would move the cursor is written as its escape.
"""

from dovetail.errors import printable
from dovetail.render.page import Line, Page, Table


def write_plain(page: Page) -> str:
    """The page as text, columns aligned, one line each."""
    lines: list[str] = []
    for block in page:
        lines += _table(block) if isinstance(block, Table) else [_line(block)]
    return "\n".join(lines) + "\n"


def _line(block: Line) -> str:
    return printable(block.text)


def _table(table: Table) -> list[str]:
    rows = [tuple(column.lstrip(">") for column in table.columns), *table.rows]
    if table.total:
        rows.append(table.total)
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    is_right = [column.startswith(">") for column in table.columns]
    return ["  ".join(_cells(row, widths, is_right)).rstrip() for row in rows]


def _cells(row: tuple[str, ...], widths: list[int], is_right: list[bool]) -> list[str]:
    cells = zip(row, widths, is_right, strict=True)
    return [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells]
