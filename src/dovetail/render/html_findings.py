"""The findings for the HTML page: errors first, each with what to do next and the tensors that show it."""

from collections.abc import Iterable

from dovetail.render.html_elements import Html, element, items, join, name, prose
from dovetail.report import Finding, Report, Severity, counted

MOST_NAMES = 200

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def findings(report: Report) -> Html:
    """All findings, grouped by severity."""
    if not report.findings:
        return element("p", "No errors, no warnings, no notes.", class_="none")
    numbered = list(enumerate(report.findings, 1))
    return join(_group(kind, [(i, f) for i, f in numbered if f.severity == kind]) for kind in _SEVERITIES)


def in_order(found: Iterable[Finding]) -> Html:
    """Findings one after the other, as they come. They may be of data, so no tensors are listed."""
    return join(_article(i, one, _said(one)) for i, one in enumerate(found, 1))


def counts(report: Report) -> str:
    """`2 errors, 0 warnings, 1 note`."""
    kinds = [finding.severity for finding in report.findings]
    return ", ".join(counted(kinds.count(kind), kind) for kind in _SEVERITIES)


def _group(kind: Severity, mine: list[tuple[int, Finding]]) -> Html:
    if not mine:
        return Html("")
    return element("section", element("h3", counted(len(mine), kind)), *(_finding(i, f) for i, f in mine))


def _finding(number: int, finding: Finding) -> Html:
    pieces = _said(finding)
    if not all(f"`{tensor}`" in finding.message for tensor in finding.tensors):
        pieces.append(names(finding.tensors, "tensor"))
    return _article(number, finding, pieces)


def _article(number: int, finding: Finding, pieces: Iterable[Html]) -> Html:
    return element("article", *pieces, class_=f"finding {finding.severity}", id=f"finding-{number}")


def _said(finding: Finding) -> list[Html]:
    tags = [element("span", finding.severity, class_="severity"), element("code", finding.code)]
    if finding.part:
        tags.append(element("span", finding.part, class_="of"))
    pieces = [
        element("p", join(tags, " "), class_="tags"),
        element("p", prose(finding.message), class_="message"),
    ]
    if finding.hint:
        line = element("span", prose(finding.hint), class_="copy")
        pieces.append(element("p", element("span", "hint", class_="word"), " ", line, class_="hint"))
    return pieces


def names(found: Iterable[str], noun: str) -> Html:
    """A list that opens, of the first names."""
    every = tuple(found)
    lines = [name(one) for one in every[:MOST_NAMES]]
    if len(every) > MOST_NAMES:
        lines.append(element("span", f"and {len(every) - MOST_NAMES:,} more in report.json", class_="soft"))
    return element("details", element("summary", counted(len(every), noun)), items(lines, "names"))
