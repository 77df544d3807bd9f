"""A page on a terminal: rich draws the tables and the colours. NO_COLOR is obeyed by rich."""

import sys

from dovetail.errors import printable
from dovetail.render.page import Page, Table
from dovetail.render.plain import write_plain

_STYLES = {
    "title": "bold",
    "dim": "dim",
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
    "good": "bold green",
    "": "",
}

# Spaces between columns, and the least that is left for the last one.
_GAP, _LAST = 2, 12


def show(page: Page) -> None:
    """Writes the page to stdout: drawn if that is a terminal, plain if it is piped."""
    if not sys.stdout.isatty():
        sys.stdout.write(write_plain(page))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for block in page:
        if isinstance(block, Table):
            console.print(_draw(block, console.width))
        else:
            console.print(printable(block.text), style=_STYLES[block.style], markup=False, soft_wrap=True)


def _draw(table: Table, width: int) -> object:
    """The table with its last column folded to fit; all of them, on a terminal too narrow for that."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    rows = [tuple(map(printable, row)) for row in table.rows]
    total = tuple(map(printable, table.total or ()))
    heads = tuple(column.lstrip(">") for column in table.columns)
    columns = [*zip(*(row for row in (heads, *rows, total) if row), strict=True)]
    needed = sum(max(map(len, column)) + _GAP for column in columns[:-1])
    drawn = Drawn(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_footer=bool(total))
    for i, head in enumerate(heads):
        drawn.add_column(
            head,
            justify="left" if head == table.columns[i] else "right",
            footer=Text(total[i]) if total else "",
            overflow="fold",
            no_wrap=i < len(columns) - 1 and needed + _LAST <= width,  # what may not wrap, rich cuts off
        )
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn
