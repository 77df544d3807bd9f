"""HTML elements out of untrusted words: whatever is not an element already is escaped.

>>> element("p", "a < b & ", element("code", "<script>"), class_="note")
'<p class="note">a &lt; b &amp; <code>&lt;script&gt;</code></p>'
"""

import re
from collections.abc import Iterable, Sequence
from html import escape as _escape
from typing import NamedTuple

from dovetail.errors import printable

# A segment with its separator; no line is longer than a phone is wide.
_PIECES = re.compile(r"[^./]{0,31}[./]|[^./]{1,32}")

VOID = frozenset({"meta", "link", "wbr", "input", "img"})


class Html(str):
    """Text that is markup already. A sum of it with other text is text again, and escaped again."""

    __slots__ = ()


def escape(text: str) -> Html:
    """The text as markup that shows it."""
    return text if isinstance(text, Html) else Html(_escape(printable(text)))


def join(pieces: Iterable[str], between: str = "") -> Html:
    """The pieces one after the other."""
    return Html(escape(between).join(escape(piece) for piece in pieces))


def element(tag: str, *children: str, **attributes: str | None) -> Html:
    """One element. `class_` is the attribute class, `data_label` is data-label; None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(printable(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def breakable(text: str) -> Html:
    """A name that may be broken after each of its separators, and within a segment that is very long."""
    pieces = _PIECES.findall(printable(text))
    return Html("<wbr>".join(_escape(piece) for piece in pieces))


def name(text: str, *, prefix: str = "") -> Html:
    """A name of a tensor or file as code; the part of it that all names share is set back."""
    if prefix and text.startswith(prefix) and text != prefix:
        shared = element("span", breakable(prefix), class_="shared")
        return element("code", shared, breakable(text.removeprefix(prefix)))
    return element("code", breakable(text))


def prose(text: str) -> Html:
    """A sentence whose words in backticks are names."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return join(name(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces) if piece)


def items(entries: Iterable[str], class_: str | None = None) -> Html:
    """A list."""
    return element("ul", *(element("li", entry) for entry in entries), class_=class_)


def definitions(rows: Iterable[tuple[str, str]], class_: str) -> Html:
    """Words and what they are here."""
    pairs = (element("div", element("dt", word), element("dd", what)) for word, what in rows)
    return element("dl", *pairs, class_=class_)


class Column(NamedTuple):
    """The head of a column; `kind` is `number`, `name` or nothing."""

    title: str
    kind: str | None = None


class Group(NamedTuple):
    """Rows under a heading of their own, and a line below them that is as wide as the table."""

    title: str | None
    rows: Sequence[Sequence[str]]
    below: str | None = None


def table(
    columns: Sequence[Column],
    groups: Iterable[Group],
    total: Sequence[str] = (),
    *,
    class_: str = "",
    is_wide: bool = False,
) -> Html:
    """A table. On a narrow screen each row is a small list with the heads as words, or if `is_wide` it stays
    a table, which whatever holds it scrolls."""
    look = " ".join(filter(None, ("wide" if is_wide else "card", class_)))
    heads = (element("th", column.title, scope="col", class_=column.kind) for column in columns)
    bodies = [_body(columns, group) for group in groups]
    if total:
        bodies.append(element("tfoot", _row(columns, total)))
    return element("table", element("thead", element("tr", *heads)), *bodies, class_=look)


def _body(columns: Sequence[Column], group: Group) -> Html:
    rows = [_row(columns, row) for row in group.rows]
    if group.title is not None:
        head = element("th", group.title, scope="rowgroup", colspan=str(len(columns)))
        rows.insert(0, element("tr", head, class_="group"))
    if group.below is not None:
        cell = element("td", group.below, colspan=str(len(columns)))
        rows.append(element("tr", cell, class_="below"))
    return element("tbody", *rows)


def _row(columns: Sequence[Column], row: Sequence[str]) -> Html:
    first, *rest = zip(columns, row, strict=True)
    cells = [element("th", first[1], scope="row", class_=first[0].kind)]
    cells += [element("td", cell, class_=column.kind, data_label=column.title) for column, cell in rest]
    return element("tr", *cells)
