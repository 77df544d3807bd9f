"""What is learned, as a page: how many samples and tokens, what of them, and the first one to look at."""

from dovetail.render.page import Line, Page
from dovetail.report import counted
from dovetail.train.lessons import Lessons


def lessons_page(lessons: Lessons, *, called: str) -> Page:
    """The page of a label certificate."""
    found = lessons.certificate
    longest = max(found.lengths, default=0)
    page: Page = [
        Line(""),
        Line(f"learns from {called}: {counted(len(found.numbers), 'sample')}", "title"),
        Line(
            f"{found.tokens:,} tokens, {found.image_tokens:,} of images; {found.learned:,} are learned "
            f"({found.share:.1%}); the longest sample has {longest:,}"
        ),
        Line(f"labels by {found.source}: the answers and their ends, {found.learn} of a conversation", "dim"),
    ]
    for shown in found.shown[:1]:
        page.append(Line(f"the first one, {shown.place}; what is learned stands in [[ ]]:", "dim"))
        text = "".join(f"[[{piece}]]" if is_learned else piece for piece, is_learned in shown.pieces)
        page.append(Line(f"  {text}"))
    for finding in found.findings:
        page.append(Line(f"{finding.severity}: {finding.message}", finding.severity))
        if finding.hint:
            page.append(Line(f"  hint: {finding.hint}"))
    return page
