"""A label certificate as a page for the terminal, and as a section of an HTML page.

What is learned is marked twice: by colour, and by the word before it (on HTML, by a line below it).
"""

from collections.abc import Iterable

from dovetail.data.certificate import LabelCertificate, Shown
from dovetail.errors import printable
from dovetail.render.html_elements import Html, element, join
from dovetail.render.page import Line, Page
from dovetail.report import counted

_MOST_LISTED = 10


def labels_page(found: LabelCertificate) -> Page:
    """What is learned: in numbers, then token by token, then what to know."""
    page: Page = [Line(f"labels by {found.source}", "title"), *map(Line, summary(found))]
    for shown in found.shown:
        page += [Line(""), *shown_lines(shown)]
    for finding in found.findings:
        page += [Line(""), Line(f"{finding.severity}: {finding.message}", finding.severity)]
        if finding.code == "samples-left-out":
            listed = found.refused[:_MOST_LISTED]
            page += [Line(f"  {one.place}: {one.error.message}") for one in listed]
            if left := len(found.refused) - len(listed):
                page.append(Line(f"  and {left:,} more; --json lists them"))
        page.append(Line(f"  hint: {finding.hint}"))
    return page


def summary(found: LabelCertificate) -> list[str]:
    """The certificate in numbers."""
    answers = "the last answer" if found.learn == "last" else "every answer"
    longest = max(found.lengths, default=0)
    return [
        f"learned: {answers} of a conversation and the token that ends it",
        (
            f"{counted(len(found.numbers), 'sample')} of {found.tokens:,} tokens, the longest of {longest:,}"
            f"; {found.image_tokens:,} are of images, {found.learned:,} are learned ({found.share:.1%})"
        ),
    ]


def shown_lines(shown: Shown) -> Page:
    """The text of a sample, a line for each of its own; `learned` stands before what is a target."""
    about = f"{shown.place}: {counted(shown.tokens, 'token')}, {shown.learned:,} learned"
    page: Page = [Line(about, "head")]
    for text, is_learned in shown.pieces:
        word, style = ("learned", "good") if is_learned else ("", "dim")
        page += [Line(f"  {word:<7}  {printable(line)}", style) for line in text.splitlines(keepends=True)]
    return page


def labels_html(found: LabelCertificate) -> Html:
    """The same as a part of an HTML page."""
    said = (element("p", line) for line in summary(found))
    legend = element(
        "p", "What is ", element("mark", "learned", class_="learned"), " is underlined.", class_="soft"
    )
    return join([*said, legend, *map(_shown_html, found.shown)])


def _shown_html(shown: Shown) -> Html:
    about = f"{shown.place}: {counted(shown.tokens, 'token')}, {shown.learned:,} learned"
    return element(
        "figure",
        element("figcaption", about),
        element("pre", join(_pieces_html(shown.pieces))),
        class_="labels",
    )


def _pieces_html(pieces: Iterable[tuple[str, bool]]) -> Iterable[Html]:
    for text, is_learned in pieces:
        lines = join(text.split("\n"), Html("\n"))
        yield element("mark", lines, class_="learned") if is_learned else element("span", lines)
