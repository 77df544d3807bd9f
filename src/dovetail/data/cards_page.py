"""The report of a manifest as an HTML page: its samples as cards, images where they stand."""

import os
from base64 import b64encode
from collections.abc import Iterable
from io import BytesIO

from PIL import Image as Pillow

from dovetail.data.certificate import LabelCertificate
from dovetail.data.data_page import fact_table, source_table, verdict_line
from dovetail.data.inspected import DataReport
from dovetail.data.labels_page import labels_html
from dovetail.data.sample import Picture, Piece, Sample, Turn, Video
from dovetail.errors import DovetailError
from dovetail.render.html_elements import Html, element, escape, items, join, name, prose
from dovetail.render.html_findings import in_order
from dovetail.render.html_page import Foot, Section, framed, page_place, verdict, write_pages
from dovetail.render.html_words import blocks
from dovetail.report import counted

_SIDE = 360  # pixels of the longer side of an image on the page
_SMALL = 96  # an image up to this is shown larger than it is, pixel by pixel
_MOST_FRAMES = 8
_MOST_REFUSED = 200
_MOST_LETTERS = 4000


def write_cards(
    report: DataReport, place: str, *, command: str, labels: LabelCertificate | None = None
) -> list[str]:
    """Writes the page and the report as JSON; `place` is a folder (data.html, data.json) or the page itself.
    `labels` are shown beside the samples.

    Raises:
        WriteError: they cannot be written.
    """
    folder, file, data = page_place(place, "data.html")
    page = cards_html(report, command=command, data=data, labels=labels)
    whole = report.as_json() | ({"labels": labels.as_json()} if labels else {})
    return write_pages({data: whole, file: page}, folder)


def cards_html(
    report: DataReport,
    *,
    command: str,
    data: str = "data.json",
    date: str | None = None,
    labels: LabelCertificate | None = None,
) -> str:
    """The page."""
    called = os.path.basename(report.manifest.path.rstrip("/"))
    said = verdict_line(report).text
    word, _, rest = said.partition(": ") if report.is_good else ("findings", "", said)
    top = element(
        "header",
        element("h1", called),
        element("p", name(report.manifest.path), class_="path"),
        verdict(word, "whole" if report.is_good else "not-whole", prose(rest)),
    )
    cards = join(_card(sample, i) for i, sample in enumerate(report.samples))
    of = f"The first {counted(len(report.samples), 'sample')}"
    sections = [
        Section("findings", "Findings", "Findings", in_order(report.findings)),
        Section("data", "Data", "What is in it", blocks([source_table(report), fact_table(report)])),
        Section("samples", "Samples", of, element("div", cards, class_="samples") if cards else Html("")),
        Section("labels", "Labels", "What is learned", labels_html(labels) if labels else Html("")),
        Section("refused", "Refused", "Samples that cannot be used", _refused(report)),
    ]
    return framed(f"{called}: {word} - dovetail data", top, sections, Foot(command, data, date=date))


def _refused(report: DataReport) -> Html:
    shown = report.refusals.listed[:_MOST_REFUSED]
    lines: list[str] = [join((element("code", one.place), ": ", prose(one.message))) for one in shown]
    if (left := len(report.refusals) - len(shown)) > 0:
        lines.append(element("span", f"and {left:,} more", class_="soft"))
    return items(lines) if lines else Html("")


def _card(sample: Sample, number: int) -> Html:
    tags = [element("span", f"sample {number}", class_="severity"), element("code", sample.place)]
    tags += [element("span", word) for word in (sample.id and f"id {sample.id}", sample.kind) if word]
    return element(
        "article",
        element("p", join(tags, " "), class_="tags"),
        *map(_turn, sample.turns),
        class_="card-of-sample",
    )


def _turn(turn: Turn) -> Html:
    return element(
        "div",
        element("p", turn.role, class_="role"),
        element("div", *map(_piece, turn.pieces), class_="said-there"),
        class_=f"turn {turn.role}",
    )


def _piece(piece: Piece) -> Html:
    if isinstance(piece, Picture):
        return figure([piece], piece.name)
    if isinstance(piece, Video):
        few = piece.frames[:_MOST_FRAMES]
        left = len(piece.frames) - len(few)
        more = f", {left} more" if left else ""
        return figure(few, f"{counted(len(piece.frames), 'frame')} from {piece.frames[0].name}{more}")
    return written(piece)


def written(text: str) -> Html:
    """What somebody said, line by line; of a very long text the beginning."""
    cut = f"… ({len(text):,} characters)" if len(text) > _MOST_LETTERS else ""
    lines = f"{text[:_MOST_LETTERS]}{cut}".split("\n")
    return element("span", join(map(escape, lines), Html("\n")), class_="text")


def figure(pictures: Iterable[Picture], caption: str) -> Html:
    """Images under one caption; one that cannot be read says why in its place."""
    return element("figure", *map(thumbnail, pictures), element("figcaption", name(caption)), class_="seen")


def thumbnail(picture: Picture) -> Html:
    """A small copy of an image, inside the page."""
    try:
        image = Pillow.fromarray(picture.pixels())
    except DovetailError as error:
        return element("p", prose(error.message), class_="bad")
    height, width = image.height, image.width
    is_small = max(height, width) <= _SMALL
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, "PNG" if is_small else "JPEG", **({} if is_small else {"quality": 85}))
    kind = "png" if is_small else "jpeg"
    scale = max(1, 2 * _SMALL // max(image.width, image.height)) if is_small else 1
    return element(
        "img",
        src=f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}",
        alt=os.path.basename(picture.name),
        title=f"{picture.name}: {height} x {width}",
        width=str(image.width * scale),
        height=str(image.height * scale),
        class_="pixels" if is_small else None,
    )
