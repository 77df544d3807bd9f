"""An evaluation as an HTML page: the counts, and every wrong answer as a card with its images."""

import os

from dovetail.data.cards_page import figure, written
from dovetail.data.sample import Picture, Seen, Video
from dovetail.render.html_elements import (
    Html,
    breakable,
    definitions,
    element,
    items,
    join,
    name,
    prose,
)
from dovetail.render.html_page import Foot, Section, framed, page_place, verdict, write_pages
from dovetail.render.html_words import blocks
from dovetail.report import counted
from dovetail.train.evaluation import Evaluation, Wrong
from dovetail.train.evaluation_page import asked_line, percent, tally_table

_MOST = 300  # wrong answers that have a card
_MOST_SKIPPED = 200
_MOST_FRAMES = 8


def write_cards(found: Evaluation, place: str, *, command: str) -> list[str]:
    """Writes the page and the evaluation as JSON; `place` is a folder or the page itself.

    Raises:
        WriteError: they cannot be written.
    """
    folder, file, data = page_place(place, "evaluate.html")
    page = cards_html(found, command=command, data=data)
    return write_pages({data: found.as_json(), file: page}, folder)


def cards_html(
    found: Evaluation, *, command: str, data: str = "evaluate.json", date: str | None = None
) -> str:
    """The page."""
    title = os.path.basename(found.checkpoint.rstrip("/"))
    total = found.total
    is_all = total.exact == total.answers
    top = element(
        "header",
        element("h1", f"What {title} answers"),
        element("p", name(found.checkpoint), class_="path"),
        verdict(
            percent(total.exact_share),
            "whole" if is_all else "unknown",
            f"{total.exact:,} of {counted(total.answers, 'answer')} exact",
        ),
        definitions(_identity(found), "identity"),
    )
    cards = join(_card(one) for one in found.wrong[:_MOST])
    left = len(found.wrong) - _MOST
    more = element("p", f"and {left:,} more: {data} has all of them") if left > 0 else Html("")
    wrong = join([element("div", cards, class_="samples"), more]) if cards else Html("")
    sections = [
        Section("counts", "Counts", "In numbers", blocks([tally_table(found)])),
        Section("wrong", "Wrong answers", f"Answered otherwise: {len(found.wrong):,}", wrong),
        Section("skipped", "Left out", "Samples that could not be asked", _skipped(found)),
    ]
    return framed(f"{title} - dovetail evaluate", top, sections, Foot(command, data, date=date))


def _identity(found: Evaluation) -> list[tuple[str, str]]:
    rows = [
        ("model", f"{found.family}/{found.layout} in {found.dtype}"),
        ("data", breakable(asked_line(found))),
    ]
    rows += [(f"assumed {key}", f"{value}, which no file says") for key, value in found.assumptions.items()]
    return rows + ([("fingerprint of the data", found.fingerprint)] if found.fingerprint else [])


def _card(one: Wrong) -> Html:
    unseen = "" if one.shown else ", ".join(map(os.path.basename, one.images))
    words = (one.kind, one.id and f"id {one.id}", unseen)
    tags = [element("code", breakable(one.place)), *(element("span", word) for word in words if word)]
    pictures = [figure(_pictures(image), _called(image)) for image in one.shown]
    return element(
        "article",
        element("p", join(tags, " "), class_="tags"),
        *pictures,
        _turn("question", "user", one.asked),
        _turn("expected", "assistant", one.wanted),
        _turn("answered" if one.has_ended else "answered, without an end", "user", one.said),
        class_="card-of-sample",
    )


def _pictures(image: Seen) -> list[Picture]:
    return list(image.frames[:_MOST_FRAMES]) if isinstance(image, Video) else [image]


def _called(image: Seen) -> str:
    return f"{counted(len(image.frames), 'frame')}" if isinstance(image, Video) else image.name


def _turn(role: str, look: str, text: str) -> Html:
    inside = element("div", written(text), class_="said-there")
    return element("div", element("p", role, class_="role"), inside, class_=f"turn {look}")


def _skipped(found: Evaluation) -> Html:
    lines: list[str] = []
    for one in found.skipped[:_MOST_SKIPPED]:
        where = str(one.details.get("sample") or one.details.get("file") or "")
        lines.append(join((element("code", breakable(where)), ": ", prose(one.message))))
    if (left := len(found.skipped) - len(lines)) > 0:
        lines.append(element("span", f"and {left:,} more", class_="soft"))
    return items(lines) if lines else Html("")
