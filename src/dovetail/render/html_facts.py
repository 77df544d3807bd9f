"""The rest of the HTML page: sizes and settings, ties, chunks, accounting, dtypes, limits and timings."""

import json
import shlex
from collections import Counter
from typing import Any

from dovetail.render.html_chart import Bar, Segment, chart, scale
from dovetail.render.html_elements import (
    Column,
    Group,
    Html,
    breakable,
    element,
    items,
    join,
    name,
    prose,
    table,
)
from dovetail.render.page import forward_row
from dovetail.report import SCHEMA, Report, Tie, Value, counted

_SETTINGS = (
    Column("size or setting", "name"),
    Column("value"),
    Column("source"),
    Column("evidence", "evidence"),
)
_FORWARD = (
    Column("stage", "name"),
    Column("shape"),
    Column("dtype"),
    Column("time", "number"),
    Column("largest", "number"),
)
_SHORT = 32
_SOURCES = {
    "weights": "from the weights",
    "config": "from a config",
    "stamp": "from the stamp",
    "default": "by default",
    "undetermined": "undetermined",
}


def settings(report: Report) -> Html:
    """Every size and setting with its source and evidence, part by part."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for key, value in report.config.items():
        role, _, short = key.rpartition(".")
        groups.setdefault(role, []).append(_setting(short, value))
    found = Counter(value.source for value in report.config.values())
    said = ", ".join(f"{found[source]} {words}" for source, words in _SOURCES.items() if found[source])
    said = f"{counted(len(report.config), 'value')}: {said}."
    titled = [Group(_role(role, report), rows) for role, rows in groups.items()]
    return join((element("p", said, class_="soft"), table(_SETTINGS, titled, class_="settings")))


def _role(role: str, report: Report) -> Html:
    kind = report.parts[role].kind if role in report.parts else ""
    return join((element("b", role or "whole model"), " ", element("span", kind, class_="soft")))


def _setting(short: str, value: Value) -> tuple[str, ...]:
    badge = element("span", value.source, class_=f"source {value.source}")
    return (element("code", short), _value(value.value), badge, prose(value.evidence))


def _value(value: Any) -> Html:
    if value is None:
        return element("span", "not determined", class_="soft")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return element("span", breakable(text), class_="value short" if len(text) <= _SHORT else "value")


def ties(report: Report) -> Html:
    """Which tensors share another's bytes."""
    return items(_tie(tie) for tie in report.ties)


def _tie(tie: Tie) -> Html:
    pieces: list[str] = [
        element("b", tie.role),
        " is stored" if tie.is_stored else " is not here" if tie.is_lost else " is not stored: it shares ",
    ]
    if not tie.is_stored and not tie.is_lost:
        pieces.append(name(tie.leaf))
    elif tie.are_equal is not None:
        pieces += [" and equal to " if tie.are_equal else " and different from ", name(tie.leaf)]
    if tie.flag is not None:
        pieces.append(f"; the config says tie_word_embeddings = {str(tie.flag).lower()}")
    return join(pieces)


def chunks(report: Report) -> Html:
    """The files of a split model, as far as their layers reach."""
    last = [chunk["last_layer"] for chunk in report.chunks if chunk["last_layer"] is not None]
    to = scale(max(last, default=0) + 1)
    bars = []
    for chunk in report.chunks:
        first, end = chunk["first_layer"], chunk["last_layer"]
        segments = () if first is None else (Segment("used", end - first + 1),)
        layers = "no layers" if first is None else f"{first} to {end}"
        notes = (counted(chunk["tensors"], "tensor"),)
        bars.append(Bar(name(str(chunk["file"])), first or 0, segments, layers, notes))
    return chart(bars, to, [f"{mark:g}" for mark in to.marks])


def accounting(report: Report) -> Html:
    """Where every name of the file went."""
    account = report.accounting
    rows = [
        ("used", "used", "a part of the model needs it", account.used),
        ("dead", "dead", "it belongs to the model, and nothing uses it", account.dead),
        ("aside", "second name", "the same tensor under another name", account.duplicates),
        *(("aside", "ignored", rule, number) for rule, number in account.ignored.items()),
        ("outside", "unexplained", "it fits nothing that is known", account.unexplained),
    ]
    total = sum(number for *_, number in rows)
    bars, place = [], 0
    for kind, word, what, number in rows:
        if number == 0 and word not in ("used", "unexplained"):
            continue
        segments = (Segment(kind, number),) if number else ()
        bars.append(Bar(element("b", word), place, segments, f"{number:,}", (what,)))
        place += number
    to = scale(total)
    said = f"{counted(total, 'name')} in the file, each counted once."
    return join((element("p", said, class_="soft"), chart(bars, to, [f"{mark:,.0f}" for mark in to.marks])))


def dtype_chart(report: Report) -> Html:
    """How many tensors there are of each element type, and where."""
    to = scale(sum(report.dtypes.values()))
    bars, place = [], 0
    for dtype, number in sorted(report.dtypes.items(), key=lambda item: -item[1]):
        parts = [(role, part.dtypes[dtype]) for role, part in report.parts.items() if dtype in part.dtypes]
        where = ", ".join(f"{inside:,} in {role}" for role, inside in parts)
        segment = Segment("used" if dtype != "unknown" else "outside", number)
        bars.append(Bar(element("b", dtype), place, (segment,), counted(number, "tensor"), (where,)))
        place += number
    return chart(bars, to, [f"{mark:,.0f}" for mark in to.marks])


def forward(report: Report) -> Html:
    """What every stage of a forward run put out."""
    rows = [(name(stage), *rest) for stage, *rest in map(forward_row, report.forward or ())]
    return table(_FORWARD, [Group(None, rows)])


def unchecked(report: Report) -> Html:
    """What this kind of input cannot show."""
    if report.unchecked:
        return items(map(prose, report.unchecked))
    said = "This kind of input hides nothing. The values of the tensors are read only with `--values`."
    return element("p", prose(said))


def again(report: Report) -> str:
    """The command that makes this page again."""
    return (
        f"dovetail validate {shlex.quote(report.path)}{' --forward' if report.forward else ''} --report OUT"
    )


def timing(report: Report) -> list[tuple[str, str]]:
    """The schema of the data, and how long each step took."""
    steps = ", ".join(f"{step} {_time(seconds)}" for step, seconds in report.seconds.items())
    total = _time(sum(report.seconds.values()))
    return [("report schema", str(SCHEMA)), ("time", f"{total} ({steps})" if steps else total)]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
