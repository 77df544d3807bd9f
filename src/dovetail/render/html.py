"""A report as one HTML page, with a list of all tensors where the checkpoint is at hand."""

from collections.abc import Mapping, Sequence

from dovetail.render import html_facts as facts
from dovetail.render import html_parts as parts
from dovetail.render import html_tensors
from dovetail.render.html_elements import Html, definitions, element, escape, join, name, prose
from dovetail.render.html_findings import counts, findings, names
from dovetail.render.html_page import Foot, Section, framed, verdict, write_pages
from dovetail.render.page import quantity
from dovetail.report import Closest, Report, counted
from dovetail.tensor_list import TensorRow


def write_report(report: Report, directory: str, *, tensors: Sequence[TensorRow] = ()) -> list[str]:
    """Writes report.json and report.html into a folder, makes it if need be, and gives both paths.

    Raises:
        WriteError: the folder or a file in it cannot be written; whatever was there is unchanged.
    """
    page = report_html(report, tensors=tensors)
    return write_pages({"report.json": report.as_json(), "report.html": page}, directory)


def report_html(report: Report, *, tensors: Sequence[TensorRow] = (), date: str | None = None) -> str:
    """The page; `date` is now if none is given."""
    foot = Foot(facts.again(report), "report.json", facts.timing(report), date)
    script = html_tensors.script() if tensors else ""
    title = f"{_title(report)}: dovetail report"
    return framed(title, _top(report), _sections(report, tensors), foot, script=script)


def _sections(report: Report, tensors: Sequence[TensorRow]) -> list[Section]:
    metric = parts.metric_of(report)
    has_parts = bool(report.parts)
    drawing = parts.parts_drawing(report) if has_parts else parts.recognised(report)
    numbers = parts.parts_table(report) if has_parts else Html("")
    drawn = f"Parts, drawn to scale by {metric}" if has_parts else "Parts"
    nothing = Html("")
    return [
        Section("findings", "Findings", "Findings", findings(report)),
        Section("parts", "Parts", drawn, drawing),
        Section("numbers", "Numbers", "Parts in numbers", numbers),
        Section("shapes", "Shapes", "Shapes", parts.shapes(report)),
        Section(
            "settings", "Sizes", "Sizes and settings", facts.settings(report) if report.config else nothing
        ),
        Section("ties", "Ties", "Ties", facts.ties(report) if report.ties else nothing),
        Section("chunks", "Chunks", "Chunks, by layer", facts.chunks(report) if report.chunks else nothing),
        Section("accounting", "Accounting", "Where every tensor went", facts.accounting(report)),
        Section("dtypes", "Dtypes", "Dtypes", facts.dtype_chart(report) if report.dtypes else nothing),
        Section(
            "forward", "Forward run", "One forward run", facts.forward(report) if report.forward else nothing
        ),
        Section("tensors", "Tensors", "All tensors", html_tensors.listing(tensors)),
        Section("unchecked", "Not checked", "What was not checked", facts.unchecked(report)),
    ]


def _top(report: Report) -> Html:
    return element(
        "header",
        element("h1", _title(report)),
        element("p", name(report.path), class_="path"),
        _verdict(report),
        definitions(_identity(report), "identity"),
    )


def _title(report: Report) -> str:
    title = report.called if report.called != "unknown" else "unknown model"
    return title[0].upper() + title[1:]


def _closest(one: Closest) -> str:
    return "/".join(word for word in (one.family, one.layout) if word)


def _verdict(report: Report) -> Html:
    """Whole, not whole or unknown: with the counts, the balance, and what nobody looked at."""
    state = report.state
    account = report.accounting
    terms = (
        (account.used, "used"),
        (account.dead, "dead"),
        (account.duplicates, "second names"),
        (sum(account.ignored.values()), "ignored"),
        (account.unexplained, "unexplained"),
    )
    total = sum(number for number, _ in terms)
    balance = ", ".join(f"{number:,} {word}" for number, word in terms if number) or "none"
    said: list[str] = [counts(report), f"{counted(total, 'name')} in the file: {balance}"]
    if report.unchecked:
        said.append(prose(f"not checked: {'; '.join(report.unchecked)}"))
    return verdict(state, state.replace(" ", "-"), *said)


def _identity(report: Report) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [("family", report.family or "unknown")]
    if report.closest and report.closest.family:
        rows.append(("closest", _distance(report, report.closest)))
        if report.closest.fits:
            rows.append(("whole in this file", join(map(prose, report.closest.fits), ", ")))
    if report.candidates:
        rows.append(("candidates", f"{', '.join(report.candidates)}: names and shapes cannot tell"))
    if report.layout is not None:
        rows.append(("layout", _layout(report)))
    if report.variant is not None or "variant" in report.config:
        rows.append(("variant", report.variant or "undetermined"))
    rows.append(("container", report.format))
    rows.append(("files", _files(report)))
    if report.wrappers:
        rows.append(("wrappers", join((name(one) for one in report.wrappers), ", ")))
    size = f"{quantity(report.bytes, 'B')}" + (f" ({report.bytes:,} bytes)" if report.bytes else "")
    known = f" ({report.parameters:,})" if report.parameters else ""
    rows.append(("parameters", f"{quantity(report.parameters)}{known}"))
    rows.append(("size", size))
    return rows


def _distance(report: Report, one: Closest) -> str:
    absent = parts.absent_roles(report)
    least = "at least " if absent else ""
    terms = [f"{least}{counted(one.missing, 'tensor')} missing"] if one.missing else []
    terms += [f"{role} is missing altogether" for role in absent]
    terms += [f"{counted(one.unexplained, 'tensor')} fit nothing in it"] if one.unexplained else []
    return ": ".join(filter(None, (_closest(one), ", ".join(terms))))


def _layout(report: Report) -> str:
    if isinstance(report.layout, Mapping):
        return "mixed: " + ", ".join(f"{role} {id}" for role, id in report.layout.items())
    same = ", ".join(report.same_layouts)
    return f"{report.layout} (here the same as {same})" if same else str(report.layout)


def _files(report: Report) -> Html:
    if len(report.files) > 1:
        return names(report.files, "file")
    return name(report.files[0]) if report.files else escape("none")
