"""The parts of a checkpoint for the HTML page: drawn to scale, as a table, and tensor by tensor."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Literal, NamedTuple

from dovetail.names import Template
from dovetail.render.html_chart import Bar, Scale, Segment, chart, scale
from dovetail.render.html_elements import (
    Column,
    Group,
    Html,
    element,
    escape,
    items,
    join,
    name,
    prose,
    table,
)
from dovetail.render.page import quantity
from dovetail.report import PartReport, Report, counted

Metric = Literal["bytes", "parameters", "tensors"]

_LEGEND = {
    "used": "in the file and used",
    "dead": "in the file, and nothing uses it",
    "missing": "missing, of unknown size: drawn as long as the mean tensor of its part, or as a mark",
    "outside": "in the file, and in no part",
}


def metric_of(report: Report) -> Metric:
    """What the drawing measures: bytes where they are known, else parameters, else tensors."""
    return "bytes" if report.bytes else "parameters" if report.parameters else "tensors"


def parts_drawing(report: Report) -> Html:
    """The parts one after the other, each as long as it is large."""
    metric = metric_of(report)
    bars = list(_bars(report, metric))
    if not bars:
        return Html("")
    to = scale(max(bar.start + sum(one.size for one in bar.segments) for bar in bars))
    kinds = {segment.kind for bar in bars for segment in bar.segments}
    legend = [(kind, text) for kind, text in _LEGEND.items() if kind in kinds]
    return chart(bars, to, _marks(to, metric), legend)


def _marks(to: Scale, metric: Metric) -> list[str]:
    return [_short(mark, metric) for mark in to.marks]


def _short(number: float, metric: Metric) -> str:
    """`1 GB`, `500 M`: an amount that is a round number."""
    value, _, unit = amount(round(number), metric).replace(",", "").partition(" ")
    return f"{float(value):g} {unit}".rstrip() if number else "0"


def amount(number: int, metric: Metric) -> str:
    """A size in words."""
    if metric == "tensors":
        return f"{number:,}"
    return quantity(number, "B" if metric == "bytes" else "")


def _bars(report: Report, metric: Metric) -> Iterator[Bar]:
    place = 0.0
    for role, part in report.parts.items():
        segments = _segments(report, role, part, metric)
        label = join((element("b", role), " ", element("span", part.kind, class_="soft")))
        shown = "tied" if part.tied_to else amount(_size(part, metric), metric)
        yield Bar(label, place, segments, shown, tuple(_notes(report, role, part)))
        place += sum(segment.size for segment in segments)
    for role in absent_roles(report):
        notes = ("missing altogether", *_finding_note(report, role))
        yield Bar(element("b", role), place, (Segment("missing", 0),), "unknown", notes)
    rest = _outside(report, metric)
    if rest > 0:
        label = element("b", "in no part")
        yield Bar(label, place, (Segment("outside", rest),), amount(rest, metric), (_outside_note(report),))


def _size(part: PartReport, metric: Metric) -> int:
    return {"bytes": part.bytes, "parameters": part.parameters, "tensors": part.present}[metric]


def _segments(report: Report, role: str, part: PartReport, metric: Metric) -> tuple[Segment, ...]:
    if part.tied_to:
        return ()
    size = _size(part, metric)
    dead = size * _dead(report, role, part).share
    missing = part.expected - part.present
    segments = (
        Segment("used", size - dead),
        Segment("dead", dead),
        Segment("missing", size * missing / part.present if part.present else 0),
    )
    return tuple(one for one in segments if one.size > 0 or (one.kind == "missing" and missing > 0))


class Dead(NamedTuple):
    """Tensors of a part that nothing uses: how many, their parameters if known, their share of the part."""

    tensors: int
    parameters: int | None
    share: float


def _dead(report: Report, role: str, part: PartReport) -> Dead:
    names = [one for f in report.findings if f.code == "dead" and f.part == role for one in f.tensors]
    sizes = [_elements(one, part.shapes, report.wrappers) for one in names]
    known = [size for size in sizes if size is not None]
    if names and len(known) == len(names) and part.parameters:
        return Dead(len(names), sum(known), min(1, sum(known) / part.parameters))
    return Dead(len(names), None, min(1, len(names) / part.present) if part.present else 0)


def _elements(
    tensor: str, shapes: Mapping[str, tuple[int, ...] | None], wrappers: tuple[str, ...]
) -> int | None:
    """The number of elements of a tensor, by the template of its name."""
    for wrapper in wrappers:
        tensor = tensor.replace(wrapper, "")
    tensor = tensor.rpartition("/")[2]
    for text, shape in shapes.items():
        if shape is not None and Template(text).parse(tensor) is not None:
            return prod(shape)
    return None


def _notes(report: Report, role: str, part: PartReport) -> Iterator[Html]:
    if part.tied_to:
        yield join(("shares ", name(part.tied_to)))
    missing = part.expected - part.present
    if missing > 0:
        yield join((f"{missing:,} of {counted(part.expected, 'tensor')} missing",))
    dead = _dead(report, role, part)
    if dead.tensors:
        size = f", {quantity(dead.parameters)} parameters" if dead.parameters else ""
        yield join((f"{counted(dead.tensors, 'dead tensor')}{size}",))
    yield from _finding_note(report, role)


def _finding_note(report: Report, role: str) -> Iterator[Html]:
    """A link to what was found about a part, if it is more than a note."""
    mine = [(i, f) for i, f in enumerate(report.findings, 1) if f.part == role and f.severity != "note"]
    if mine:
        counts = (sum(1 for _, f in mine if f.severity == kind) for kind in ("error", "warning"))
        said = (counted(n, kind) for n, kind in zip(counts, ("error", "warning"), strict=True) if n)
        yield element("a", ", ".join(said), href=f"#finding-{mine[0][0]}")


def absent_roles(report: Report) -> list[str]:
    """The parts that a finding misses and the file has nothing of."""
    roles = (f.part for f in report.findings if f.severity == "error" and f.part is not None)
    return [role for role in dict.fromkeys(roles) if role not in report.parts]


def _outside(report: Report, metric: Metric) -> int:
    total = {"bytes": report.bytes, "parameters": report.parameters, "tensors": report.tensors}[metric]
    return (total or 0) - sum(_size(part, metric) for part in report.parts.values())


def _outside_note(report: Report) -> str:
    account = report.accounting
    terms = (
        (account.unexplained, "unexplained"),
        (account.duplicates, "second names"),
        (sum(account.ignored.values()), "ignored"),
    )
    return ", ".join(f"{number:,} {word}" for number, word in terms if number)


_COLUMNS = (
    Column("part"),
    Column("kind"),
    Column("tensors", "number"),
    Column("parameters", "number"),
    Column("bytes", "number"),
    Column("dtypes"),
    Column("layout"),
)


def parts_table(report: Report) -> Html:
    """The parts in numbers."""
    groups = [
        Group(None, [_table_row(report, role, part)], _where(part)) for role, part in report.parts.items()
    ]
    total = (
        "total",
        "",
        f"{report.tensors:,}",
        _exact(report.parameters),
        quantity(report.bytes, "B"),
        dtypes(report.dtypes),
        "",
    )
    return table(_COLUMNS, groups, total, class_="parts")


def _where(part: PartReport) -> Html:
    if part.tied_to:
        return join(("shares ", name(part.tied_to)))
    return join(("under ", name(part.prefix))) if part.prefix else escape("under no prefix")


def _table_row(report: Report, role: str, part: PartReport) -> tuple[str, ...]:
    kind = " + ".join((part.kind, *part.features))
    if part.tied_to:
        return (role, kind, "tied", "", "", "", "")
    tensors = f"{part.present:,}" if part.is_complete else f"{part.present:,} of {part.expected:,}"
    has_sizes = report.parameters is not None
    return (
        role,
        kind,
        tensors,
        _exact(part.parameters if has_sizes else None),
        quantity(part.bytes if has_sizes and "unknown" not in part.dtypes else None, "B"),
        dtypes(part.dtypes),
        part.layout or "",
    )


def _exact(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def dtypes(found: Mapping[str, int]) -> Html:
    """`BF16`, or how many there are of each."""
    if len(found) == 1:
        return escape(next(iter(found)))
    counts = sorted(found.items(), key=lambda item: -item[1])
    return join((element("span", f"{number:,} {dtype}", class_="short") for dtype, number in counts), ", ")


def recognised(report: Report) -> Html:
    """Parts that were found in a file that is no known model."""
    fits = report.closest.fits if report.closest else ()
    if not fits:
        return element("p", "No part of any known model was recognised.")
    return join(
        (element("p", "No known model, but these parts were recognised in it:"), items(map(prose, fits)))
    )


def shapes(report: Report) -> Html:
    """Of every part, the template of each name and the shape of its tensors."""
    return join(_shapes(role, part) for role, part in report.parts.items() if part.shapes)


def _shapes(role: str, part: PartReport) -> Html:
    rows = [(name(text, prefix=part.prefix), _shape(shape)) for text, shape in part.shapes.items()]
    said = join((element("b", role), f" {part.kind}: {counted(len(rows), 'kind')} of tensors"))
    columns = (Column("name", "name"), Column("shape", "shape"))
    return element("details", element("summary", said), table(columns, [Group(None, rows)]))


def _shape(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return "unknown"
    return " × ".join(str(size) for size in shape) or "scalar"
