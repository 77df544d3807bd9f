"""A report as one HTML page that needs nothing else: no network, no script, no fonts.

The page says what it says on a phone, on paper, in the dark and without a stylesheet. Names come from
files that nobody vouches for; `html_elements` escapes them, and the page's own policy forbids scripts.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any, NamedTuple

from dovetail.errors import WriteError
from dovetail.render import html_facts as facts
from dovetail.render import html_parts as parts
from dovetail.render.html_elements import Html, definitions, element, escape, join, name, prose
from dovetail.render.html_findings import counts, findings, names
from dovetail.render.json_text import json_text
from dovetail.render.page import quantity
from dovetail.report import Closest, Report, counted

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_report(report: Report, directory: str) -> list[str]:
    """Writes report.json and report.html into a folder, makes it if need be, and gives both paths.

    Raises:
        WriteError: the folder or a file in it cannot be written; whatever was there is unchanged.
    """
    return write_pages({"report.json": report.as_json(), "report.html": report_html(report)}, directory)


def write_pages(contents: Mapping[str, Any], directory: str) -> list[str]:
    """Writes texts, and other values as JSON, into a folder; makes it if need be and gives all paths.

    Raises:
        WriteError: the folder or a file in it cannot be written; whatever was there is unchanged.
    """
    paths = {
        os.path.join(directory, file): value if isinstance(value, str) else json_text(value)
        for file, value in contents.items()
    }
    partial = {path: f"{path}.{os.getpid()}.partial" for path in paths}
    is_new = not os.path.exists(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        for path, text in paths.items():
            _write(partial[path], text)
            if os.path.isdir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        for path, temporary in partial.items():
            os.replace(temporary, path)
    except BaseException as error:
        _clear(directory if is_new else None, partial.values())
        if not isinstance(error, OSError):
            raise
        raise _refusal(error, directory) from error
    return list(paths)


def _write(path: str, text: str) -> None:
    # A lone surrogate of a hostile name becomes `\udc80`, which is how JSON writes it.
    with open(path, "wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def _clear(directory: str | None, temporaries: Iterable[str]) -> None:
    for temporary in temporaries:
        with suppress(OSError):
            os.remove(temporary)
    if directory is not None:
        with suppress(OSError):
            os.rmdir(directory)


def _refusal(error: OSError, directory: str) -> WriteError:
    reason = (error.strerror or type(error).__name__).lower()
    if os.path.exists(directory) and not os.path.isdir(directory):
        reason = "it is a file"
    return WriteError(
        f"cannot write the report into `{directory}`: {reason}",
        file=error.filename if reason == "is a directory" else None,
        hint="no file was changed; give a folder that you may write to, or one that can be made",
    )


class Section(NamedTuple):
    """One section of the page; the word is its entry in the contents."""

    id: str
    word: str
    title: str
    body: Html


def report_html(report: Report) -> str:
    """The page."""
    sections = [section for section in _sections(report) if section.body]
    body = element(
        "body",
        _contents(sections),
        element("main", _top(report), *(_section(section) for section in sections)),
        element("footer", facts.foot(report)),
    )
    return html_page(f"{_title(report)}: dovetail report", body)


def html_page(title: str, body: Html) -> str:
    """A whole page around a body."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(_stylesheet())),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _stylesheet() -> str:
    return files("dovetail.render").joinpath("html.css").read_text(encoding="utf-8")


def _sections(report: Report) -> list[Section]:
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
        Section("unchecked", "Not checked", "What was not checked", facts.unchecked(report)),
    ]


def _section(section: Section) -> Html:
    return element("section", element("h2", section.title), section.body, id=section.id)


def _contents(sections: list[Section]) -> Html:
    links = (element("li", element("a", one.word, href=f"#{one.id}")) for one in sections)
    brand = element("p", "dovetail", class_="brand")
    return element("nav", brand, element("ul", *links), aria_label="Contents")


def _top(report: Report) -> Html:
    return element(
        "header",
        element("h1", _title(report)),
        element("p", name(report.path), class_="path"),
        _verdict(report),
        definitions(_identity(report), "identity"),
    )


def _title(report: Report) -> str:
    if report.family is not None:
        variant = f" ({report.variant})" if report.variant not in (None, "base") else ""
        return f"{report.title or report.family}{variant}"
    if report.candidates:
        return " or ".join(report.candidates)
    return (
        f"Closest to {_closest(report.closest)}"
        if report.closest and report.closest.family
        else "Unknown model"
    )


def _closest(one: Closest) -> str:
    return "/".join(word for word in (one.family, one.layout) if word)


def _verdict(report: Report) -> Html:
    """Whole, not whole or unknown: with the counts, the balance, and what nobody looked at."""
    state = "whole" if report.is_whole else "not whole" if report.parts else "unknown"
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
    lines = [
        element("p", element("strong", state), " ", element("span", counts(report)), class_="word"),
        element("p", f"{counted(total, 'name')} in the file: {balance}"),
    ]
    if report.unchecked:
        lines.append(element("p", prose(f"not checked: {'; '.join(report.unchecked)}"), class_="soft"))
    return element("div", *lines, class_=f"verdict {state.replace(' ', '-')}")


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
