"""A report as a page: headings, lines and tables, with no colour yet and no width.

`plain` writes it for pipes and files, `terminal` draws it. Every word is here, so that both say the same.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dovetail.report import Finding, Memory, PartReport, Report, Severity, counted


class Line(NamedTuple):
    """One line of text; `style` is a name that `terminal` gives a colour."""

    text: str
    style: str = ""


class Table(NamedTuple):
    """Columns with a heading each; a heading that begins with `>` is set to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] | None = None


Block = Line | Table
Page = list[Block]

# The longest list that is shown whole.
_MOST = 32
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_WORDS: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "note"}


def quantity(number: int | None, unit: str = "") -> str:
    """A number as a person says it: `4.42 GB`, `2.21 G`, `unknown`."""
    if number is None:
        return "unknown"
    for size, letter in _UNITS:
        if number >= size:
            return f"{number / size:.2f} {letter}{unit}"
    return f"{number} {unit}".rstrip()


def inspect_page(report: Report, *, all_dims: bool = True) -> Page:
    """What a checkpoint is."""
    page: Page = [*_head(report)]
    if report.parts:
        page += [Line(""), _parts_table(report)]
    if report.chunks:
        page += [Line(""), _chunks_table(report)]
    if report.config and all_dims:
        page += [Line(""), _dims_table(report)]
    page += _ties(report)
    if report.memory is not None:
        page += [Line(""), *memory_lines(report.memory)]
    page += _findings(report.findings)
    page += _unchecked(report)
    return page


def memory_lines(memory: Memory) -> Page:
    """What it takes, per node and together."""
    is_one = len(memory.nodes) == 1
    rows = tuple(
        (
            "all of it" if is_one else f"node {i}, layers {node.layers.start} to {node.layers.stop - 1}",
            " + ".join(f"{quantity(size, 'B')} {dtype}" for dtype, size in node.weights.items()),
            "" if node.cache is None else quantity(node.cache, "B"),
            quantity(node.bytes, "B"),
        )
        for i, node in enumerate(memory.nodes)
    )
    if memory.per_token is None:
        said = f"KV cache: {memory.why_not}"
    else:
        tokens = f"{counted(memory.batch, 'sequence')} of {counted(memory.context, 'token')}"
        said = f"KV cache: {quantity(memory.per_token, 'B')} a token as {memory.cache_dtype}, for {tokens}"
        if memory.cache_dtype in ("BF16", "F16"):
            said += "; twice as much on a CPU, where it is kept as F32"
    return [Table(("memory", ">weights", ">KV cache", ">together"), rows), Line(said, "dim")]


def validate_page(report: Report) -> Page:
    """Whether a checkpoint is whole: findings first."""
    page: Page = [*_head(report), *_findings(report.findings)]
    if report.parts:
        page += [Line(""), _parts_table(report)]
    page += [Line(""), Line(_balance(report))]
    page += _ties(report)
    page += _unchecked(report)
    if report.forward is not None:
        page += [Line(""), _forward_table(report.forward)]
    page += [Line(""), _verdict(report)]
    return page


def forward_row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """What one stage of a forward run put out: its shape and dtype, the time, the largest number."""
    lost = f"{stage['not_finite']} NaN or infinite" if stage["not_finite"] else f"{stage['largest']:.4g}"
    shape = "x".join(map(str, stage["shape"]))
    return stage["stage"], shape, stage["dtype"], f"{stage['seconds'] * 1e3:.1f} ms", lost


def _forward_table(stages: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("forward", "shape", "dtype", ">time", ">largest")
    return Table(columns, tuple(forward_row(stage) for stage in stages))


def families_page(families: Iterable[Mapping[str, object]]) -> Page:
    """What is known."""
    page: Page = []
    for one in families:
        parts = one["parts"]
        assert isinstance(parts, dict)
        kinds = ", ".join(f"{role} ({' | '.join(dict.fromkeys(ids))})" for role, ids in parts.items())
        if page:
            page.append(Line(""))
        page += [Line(f"{one['family']}: {one['title']}", "title"), Line(f"parts: {kinds}", "dim")]
        layouts = one["layouts"]
        assert isinstance(layouts, list)
        rows = tuple(
            (
                layout["id"],
                "read, write" if layout["writable"] else "read only",
                layout["note"]
                + (
                    f" (same names and shapes as {', '.join(layout['same_as'])})" if layout["same_as"] else ""
                ),
            )
            for layout in layouts
        )
        page.append(Table(("layout", "access", "what it is"), rows))
    return page


def _head(report: Report) -> Page:
    where = f": family {report.family}, layout {_layout(report)}" if report.family else ""
    title = f"{report.called}{where}"
    head: Page = [Line(title, "title"), Line(f"{report.path}  ({_container(report)})", "dim")]
    if report.wrappers:
        head.append(Line(f"taken off every name: {', '.join(f'`{wrapper}`' for wrapper in report.wrappers)}"))
    if report.parts == {} and report.closest and report.closest.fits:
        head += [Line(f"holds {fit}") for fit in report.closest.fits]
    if not report.parts:
        size = f"{quantity(report.parameters)} parameters, {quantity(report.bytes, 'B')}"
        head.append(Line(f"{report.tensors} tensors, {size}"))
    return head


def _layout(report: Report) -> str:
    if isinstance(report.layout, Mapping):
        return "mixed (" + ", ".join(f"{role} {id}" for role, id in report.layout.items()) + ")"
    return str(report.layout)


def _container(report: Report) -> str:
    files = (
        f"{len(report.files)} files"
        if len(report.files) > 1
        else report.files[0]
        if report.files
        else "no file"
    )
    return f"{report.format}, {files}"


def _parts_table(report: Report) -> Table:
    rows = tuple(_part_row(role, part) for role, part in report.parts.items())
    total = (
        "total",
        "",
        str(report.tensors),
        quantity(report.parameters),
        quantity(report.bytes, "B"),
        _dtypes(report.dtypes),
        "",
    )
    return Table(("part", "kind", ">tensors", ">parameters", ">size", "dtype", "where"), rows, total)


def _part_row(role: str, part: PartReport) -> tuple[str, ...]:
    kind = part.kind + "".join(f" +{feature}" for feature in part.features)
    if part.tied_to:
        return (role, kind, "tied", "", "", "", f"is {part.tied_to}")
    tensors = str(part.present) if part.is_complete else f"{part.present} of {part.expected}"
    known = part.parameters or None
    where = f"{part.prefix}*" if part.prefix else "(no prefix)"
    return (
        role,
        kind,
        tensors,
        quantity(known),
        quantity(part.bytes or None, "B"),
        _dtypes(part.dtypes),
        where,
    )


def _dtypes(dtypes: Mapping[str, int]) -> str:
    if len(dtypes) == 1:
        return next(iter(dtypes))
    return ", ".join(f"{count} {dtype}" for dtype, count in sorted(dtypes.items(), key=lambda item: -item[1]))


def _chunks_table(report: Report) -> Table:
    rows = tuple(
        (str(chunk["file"]), str(chunk["tensors"]), _layers(chunk["first_layer"], chunk["last_layer"]))
        for chunk in report.chunks
    )
    return Table(("chunk", ">tensors", "layers"), rows)


def _layers(first: object, last: object) -> str:
    return "none" if first is None else f"{first} to {last}"


def shown_value(value: object) -> str:
    """A value in the width of a column; the JSON and HTML reports have all of it."""
    if value is None or value == {}:
        return "none" if value == {} else "?"
    if isinstance(value, list | dict):
        text = str([float(f"{one:.4g}") if isinstance(one, float) else one for one in value])
        return text if isinstance(value, list) and len(text) <= _MOST else f"{len(value)} values"
    return str(value)


def _dims_table(report: Report) -> Table:
    rows = tuple(
        (name, shown_value(value.value), value.source, value.evidence)
        for name, value in report.config.items()
    )
    return Table(("size or setting", ">value", "source", "evidence"), rows)


def _ties(report: Report) -> Page:
    lines: Page = []
    for tie in report.ties:
        state = "stored" if tie.is_stored else f"not stored, shares {tie.leaf}"
        state = "not here" if tie.is_lost else state
        if tie.are_equal is not None:
            state += ", equal to it" if tie.are_equal else f", different from {tie.leaf}"
        flag = "" if tie.flag is None else f" (config: tie_word_embeddings = {str(tie.flag).lower()})"
        lines.append(Line(f"{tie.role}: {state}{flag}"))
    return [Line(""), *lines] if lines else []


def _findings(findings: Iterable[Finding]) -> Page:
    page: Page = []
    for finding in findings:
        page += [Line(""), Line(f"{_WORDS[finding.severity]}: {finding.message}", finding.severity)]
        if finding.hint:
            page.append(Line(f"  hint: {finding.hint}"))
    return page


def _balance(report: Report) -> str:
    account = report.accounting
    ignored = sum(account.ignored.values())
    terms = [
        (account.used, "used"),
        (account.dead, "dead"),
        (account.duplicates, "second names"),
        (ignored, "ignored by a named rule"),
        (account.unexplained, "unexplained"),
    ]
    return f"of {report.tensors} tensors " + ", ".join(
        f"{count} {word}" for count, word in terms if count or word == "used"
    )


def _unchecked(report: Report) -> Page:
    return (
        [Line(""), *(Line(f"not checked: {limit}", "dim") for limit in report.unchecked)]
        if report.unchecked
        else []
    )


def _verdict(report: Report) -> Line:
    errors = _counted(report, "error")
    warnings = _counted(report, "warning")
    if report.is_whole:
        return Line(f"whole, {warnings}" if warnings else "whole", "good")
    return Line(f"{report.state}: " + ", ".join(count for count in (errors, warnings) if count), "error")


def _counted(report: Report, severity: Severity) -> str:
    """`2 errors`, `1 warning`, or nothing."""
    count = sum(1 for finding in report.findings if finding.severity == severity)
    return counted(count, severity) if count else ""
