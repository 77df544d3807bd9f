"""The normalisation report as a page for the terminal."""

from dovetail.data.normalization import SHOWN, Dimension, NormalizationReport
from dovetail.render.page import Line, Page, Table
from dovetail.report import counted

_KINDS = {"state": "state", "actions": "action"}


def normalization_page(report: NormalizationReport) -> Page:
    """Every dimension of the data beside the checkpoint's, then what was found."""
    page: Page = [
        Line(
            f"{report.source}: {counted(report.episodes, 'episode')}, {counted(report.frames, 'frame')}",
            "title",
        ),
        Line(report.form, "dim"),
        Line(f"statistics of {report.checkpoint}: {report.statistics or 'none'}", "dim"),
    ]
    for kind in _KINDS:
        rows = [one for one in report.dimensions if one.kind == kind]
        page += [Line(""), dimension_table(kind, rows)]
    for finding in report.findings:
        page += [Line(""), Line(f"{finding.severity}: {finding.message}", finding.severity)]
        if finding.hint:
            page.append(Line(f"  hint: {finding.hint}"))
    return [*page, Line(""), verdict_line(report)]


def dimension_table(kind: str, dimensions: list[Dimension]) -> Table:
    """A row for the data and one for the checkpoint of each dimension."""
    rows: list[tuple[str, ...]] = []
    for one in dimensions:
        label = f"{one.number} {one.name}".strip()
        rows.append((label, "data", *shown(one.data), normalised(one), one.verdict))
        if one.checkpoint:
            rows.append(("", "checkpoint", *shown(one.checkpoint), "", ""))
    columns = (_KINDS[kind], "of", *(f">{name}" for name in SHOWN), ">normalised", "verdict")
    return Table(columns, tuple(rows))


def shown(facts: dict[str, float] | object) -> list[str]:
    """The numbers of a row; what is not known is left empty."""
    assert isinstance(facts, dict)
    return [number(facts[name]) if name in facts else "" for name in SHOWN]


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def normalised(one: Dimension) -> str:
    """From where to where the data go as the checkpoint normalises them."""
    return "" if one.low is None or one.high is None else f"{one.low:.3g} ... {one.high:.3g}"


def verdict_line(report: NormalizationReport) -> Line:
    """The last line."""
    kinds = [one.severity for one in report.findings]
    said = ", ".join(counted(kinds.count(kind), kind) for kind in ("error", "warning") if kind in kinds)
    if not report.is_good:
        return Line(f"{said}: these are not the numbers that the policy knows", "error")
    if said:
        return Line(f"{said}: no dimension is certainly another one than the policy knows", "warning")
    return Line("good: every dimension is spread as the checkpoint's statistics say", "good")
