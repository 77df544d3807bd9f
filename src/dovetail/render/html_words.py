"""Pages of a terminal as HTML: the same words, so that `diff` and a plan say the same in both."""

from collections.abc import Iterable, Sequence

from dovetail.render.html_elements import Column, Group, Html, element, join, name, prose, table
from dovetail.render.page import Block, Line, Table

# Columns whose cells are names of tensors, files or settings.
_NAMES = ("tensor", "config", "file", "the new model", "left over in a donor", "first", "furthest apart")


def blocks(page: Iterable[Block]) -> Html:
    """Tables as tables, lines as paragraphs with their severity as a class; empty lines are left out."""
    return join(_block(one) for one in page)


def _block(block: Block) -> Html:
    if isinstance(block, Table):
        return words_table(block)
    if not block.text.strip():
        return Html("")
    return element("p", prose(block.text), class_=f"said {block.style}".strip())


def words_table(drawn: Table) -> Html:
    """A table whose heads say which columns are numbers and which are names."""
    heads = [column.lstrip(">") for column in drawn.columns]
    kinds = [
        "number" if column[:1] == ">" else "name" if column in _NAMES else None for column in drawn.columns
    ]
    columns = [Column(head, kind) for head, kind in zip(heads, kinds, strict=True)]
    rows = [_row(row, kinds) for row in drawn.rows]
    total = _row(drawn.total, [None] * len(kinds)) if drawn.total else ()
    return element(
        "div",
        table(columns, [Group(None, rows)], total, class_="words", is_wide=True),
        class_="scroll",
        tabindex="0",
    )


def _row(row: Sequence[str], kinds: Sequence[str | None]) -> list[str]:
    return [
        name(cell) if kind == "name" and cell else prose(cell) for cell, kind in zip(row, kinds, strict=True)
    ]


def lines_of(page: Iterable[Block], style: str) -> list[str]:
    """The texts of the lines in a style."""
    return [one.text for one in page if isinstance(one, Line) and one.style == style]
