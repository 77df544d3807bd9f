"""The list of all tensors for the HTML page, with a field that filters it.

Without its script the list is simply whole. Of very many tensors those that differ in indices only are
one row.
"""

from collections.abc import Iterable, Sequence

from dovetail.names import star
from dovetail.render.html_elements import Column, Group, Html, element, escape, join, name, table
from dovetail.render.html_page import resource
from dovetail.report import counted
from dovetail.tensor_list import TensorRow

# More rows than this make a page that a browser is slow to draw.
_MOST = 4000
_COLUMNS = (
    Column("tensor", "name"),
    Column("part"),
    Column("canonical name, or why not used", "name"),
    Column("dtype"),
    Column("shape", "shape"),
    Column("file", "file"),
)


def script() -> str:
    """What filters the list."""
    return resource("html_filter.js")


def listing(tensors: Sequence[TensorRow]) -> Html:
    """The field and the list."""
    if not tensors:
        return Html("")
    rows = _rows(tensors) if len(tensors) <= _MOST else _folded(tensors)
    field = element("input", type="search", id="filter", placeholder="q_proj 1536 text", autocomplete="off")
    label = element("label", "tensors with all of these words ", field)
    said = element("span", counted(len(rows), "row"), id="found", class_="soft", aria_live="polite")
    drawn = table(_COLUMNS, [Group(None, rows)], class_="tensors", is_wide=True)
    above = element("p", label, " ", said, class_="filter", hidden="")
    scrolled = element("div", drawn, class_="list", tabindex="0", role="region", aria_label="all tensors")
    return join((above, scrolled))


def _rows(tensors: Iterable[TensorRow]) -> list[tuple[str, ...]]:
    return [_row(one, one.name, "") for one in tensors]


def _row(tensor: TensorRow, called: str, many: str) -> tuple[str, ...]:
    shape = "unknown" if tensor.shape is None else " \u00d7 ".join(map(str, tensor.shape)) or "scalar"
    label = join((name(called), escape(many)))
    leaves = join((name(leaf) for leaf in tensor.canonical), ", ") if not many else escape("")
    said = leaves or escape(tensor.note or "")
    return label, tensor.part or "", said, tensor.dtype or "unknown", shape, name(tensor.file or "")


def _folded(tensors: Iterable[TensorRow]) -> list[tuple[str, ...]]:
    """One row for all that differ in indices only."""
    alike: dict[tuple[object, ...], list[TensorRow]] = {}
    for one in tensors:
        alike.setdefault((star(one.name), one.part, one.dtype, one.shape, one.note), []).append(one)
    rows = []
    for same in alike.values():
        first, count = same[0], len(same)
        if len({one.file for one in same}) > 1:
            first = first._replace(file="")
        rows.append(
            _row(first, star(first.name), f"  {count:,} of them")
            if count > 1
            else _row(first, first.name, "")
        )
    return rows
