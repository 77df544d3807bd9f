"""Two checkpoints compared, as a page: what differs by template, then the verdict."""

import math
from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from dovetail.compare.difference import Change, Difference, Group
from dovetail.errors import listed
from dovetail.render.page import Line, Page, Table
from dovetail.report import Report, Value, counted

# More templates of a part than this with one kind of difference are shown as one line.
_MOST = 6


class _Row(NamedTuple):
    """Some changes of one kind, and what they have in common."""

    kind: str
    name: str
    changes: tuple[Change, ...]
    templates: int = 1

    @property
    def furthest(self) -> Change:
        """The change whose values are furthest apart."""
        return Group("values", "", self.changes).worst

    def shape(self, side: str) -> str:
        """What a side has: dtype and shape, or how many different ones."""
        return f"{self.templates} templates" if side and self.templates > 1 else side


def diff_page(found: Difference) -> Page:
    """What differs, what should be known, and one line that says it all."""
    page: Page = [Line("diff", "title"), Line(f"A  {side(found.a)}"), Line(f"B  {side(found.b)}")]
    page += difference_tables(found)
    page += setting_table(found)
    if found.notes:
        page += [Line(""), *(Line(f"note: {note}", "note") for note in found.notes)]
    page += [Line(""), Line(found.verdict, "good" if found.is_same else "error")]
    return page


def difference_tables(found: Difference) -> Page:
    """What differs by template: what is there, and what was measured."""
    page: Page = []
    rows = list(_rows(found.groups))
    bare = tuple(_presence(row) for row in rows if row.furthest.distance is None)
    measured = tuple(_distance(row) for row in rows if row.furthest.distance is not None)
    if bare:
        page += [Line(""), Table(("difference", "tensor", ">count", "A", "B"), bare)]
    if measured:
        columns = ("difference", "tensor", ">count", ">max abs", ">relative", "furthest apart")
        page += [Line(""), Table(columns, measured)]
    if any(row.templates > 1 for row in rows):
        page.append(Line("--json names every tensor", "dim"))
    return page


def setting_table(found: Difference) -> Page:
    """What the configs say otherwise."""
    values = tuple((one.name, _value(one.a), _value(one.b)) for one in found.settings)
    return [Line(""), Table(("config", "A", "B"), values)] if values else []


def side(report: Report) -> str:
    """One of the two: its path, what it is, what it is made of."""
    layout = report.layout if isinstance(report.layout, str) else "mixed layouts"
    what = f"{report.family}/{layout}" if report.family else "no family is all here"
    return f"{report.path}  ({what}, {counted(report.tensors, 'tensor')} in {listed(report.files, 1)})"


def _rows(groups: Iterable[Group]) -> Iterable[_Row]:
    """The groups, those of one part and kind as one where they are many."""
    alike: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        kind = _kind(group.changes[0])
        alike.setdefault((kind, group.template.partition(".")[0]), []).append(group)
    for (kind, part), same in alike.items():
        if len(same) > _MOST:
            changes = tuple(change for group in same for change in group.changes)
            yield _Row(kind, f"{_common(changes, part)}.…", changes, len(same))
            continue
        for group in same:
            name = group.changes[0].name if len(group.changes) == 1 else group.template
            yield _Row(kind, name, group.changes)


def _common(changes: Iterable[Change], part: str) -> str:
    """The beginning that all names share: `text.blocks.4` where a layer is all there is."""
    segments = zip(*(change.name.split(".") for change in changes), strict=False)
    shared = takewhile(lambda one: len(set(one)) == 1, segments)
    return ".".join(one[0] for one in shared) or part


def _kind(change: Change) -> str:
    """`only in A`, `dtype BF16 / F16`."""
    if change.kind != "dtype":
        return change.kind
    return f"dtype {change.a.split()[0]} / {change.b.split()[0]}"


def _presence(row: _Row) -> tuple[str, ...]:
    first = row.changes[0]
    return (row.kind, row.name, str(len(row.changes)), row.shape(first.a), row.shape(first.b))


def _distance(row: _Row) -> tuple[str, ...]:
    distances = [change.distance for change in row.changes if change.distance]
    largest = max((one.max_abs for one in distances), key=_nan_last)
    relative = max((one.relative for one in distances), key=_nan_last)
    furthest = row.furthest.name if len(row.changes) > 1 and relative != 0 else ""
    return (row.kind, row.name, str(len(row.changes)), f"{largest:.3g}", f"{relative:.3g}", furthest)


def _nan_last(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


def _value(value: Value) -> str:
    where = "" if value.source == "weights" else f": {value.evidence}"
    return f"{value.value} ({value.source}{where})"
