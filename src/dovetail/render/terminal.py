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


def show(page: Page) -> None:
    """Writes the page to stdout: drawn if that is a terminal, plain if it is piped."""
    if not sys.stdout.isatty():
        sys.stdout.write(write_plain(page))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for block in page:
        if isinstance(block, Table):
            console.print(_draw(block))
        else:
            console.print(printable(block.text), style=_STYLES[block.style], markup=False, soft_wrap=True)


def _draw(table: Table) -> object:
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=table.total is not None)
    for i, column in enumerate(table.columns):
        drawn.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            footer=table.total[i] if table.total else "",
            overflow="fold",
            no_wrap=i < len(table.columns) - 1,
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn
