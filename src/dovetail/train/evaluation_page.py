"""An evaluation as a page of the terminal: a row for each kind of question, and the first wrong answers."""

from collections.abc import Iterable

from dovetail.errors import printable
from dovetail.render.page import Line, Page, Table
from dovetail.report import counted
from dovetail.train.evaluation import Evaluation, Tally, Wrong

# How many wrong answers are printed, and how much of each.
_WRONG = 5
_LETTERS = 200


def evaluation_page(found: Evaluation) -> Page:
    """What was asked, the counts, and what was answered otherwise."""
    title = f"{found.checkpoint}: {found.family}/{found.layout} in {found.dtype}"
    page: Page = [Line(title, "title"), Line(asked_line(found), "dim"), Line(""), tally_table(found)]
    page += [
        Line(f"assumed: {name} = {value}, which no file says") for name, value in found.assumptions.items()
    ]
    if found.skipped:
        page += [Line(""), Line(f"warning: {skipped_line(found)}", "warning")]
    if found.wrong:
        some = found.wrong[:_WRONG]
        left = f", the first {len(some)}" if len(found.wrong) > len(some) else ""
        page += [Line(""), Line(f"answered otherwise{left}", "title"), *_wrong_lines(some)]
    return [*page, Line(""), verdict_line(found)]


def asked_line(found: Evaluation) -> str:
    """Which samples were asked."""
    asked, left = found.samples + len(found.skipped), len(found.skipped)
    part = f"the first {asked:,} of {found.of:,}" if asked < found.of else f"all {found.of:,}"
    return f"{found.data}: {part} samples{f', {left:,} left out' if left else ''}, {found.seconds:.1f} s"


def skipped_line(found: Evaluation) -> str:
    """How many samples were left out, and why the first one was."""
    first = found.skipped[0]
    where = first.details.get("sample") or first.details.get("file") or ""
    return f"{counted(len(found.skipped), 'sample')} left out; {where}: {first.message}"


def verdict_line(found: Evaluation) -> Line:
    """How many answers are exact."""
    total = found.total
    text = f"{total.exact:,} of {counted(total.answers, 'answer')} exact ({percent(total.exact_share)})"
    return Line(text, "good" if total.exact == total.answers else "")


def tally_table(found: Evaluation) -> Table:
    """The counts; the kinds have a row each where records name them."""
    named = {kind: one for kind, one in found.kinds.items() if kind}
    rows = [(kind or "(none named)", one) for kind, one in found.kinds.items()] if named else []
    columns = ("kind" if named else "", ">answers", ">exact", "", ">tokens", ">right", "", ">loss")
    total = ("total", *tally_cells(found.total))
    cells = tuple((printable(kind), *tally_cells(one)) for kind, one in rows)
    return Table(columns, cells, total) if cells else Table(columns, (total,))


def tally_cells(one: Tally) -> tuple[str, ...]:
    """Answers, exact ones, tokens, right ones, loss."""
    return (
        f"{one.answers:,}",
        f"{one.exact:,}",
        percent(one.exact_share),
        f"{one.tokens:,}",
        f"{one.right:,}",
        percent(one.token_accuracy),
        f"{one.mean_loss:.4g}",
    )


def percent(share: float) -> str:
    """A share as percent, in which 100% and 0% are exact.

    >>> percent(0.9999), percent(1.0), percent(0.125)
    ('99.9%', '100%', '12.5%')
    """
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share * 100, 0.1), 99.9):.1f}%"


def _wrong_lines(some: Iterable[Wrong]) -> Page:
    lines: Page = []
    for one in some:
        kind = f" ({one.kind})" if one.kind else ""
        ended = "" if one.has_ended else "  (does not end)"
        lines += [
            Line(f"{one.place}{kind}: {_shown(one.asked)}"),
            Line(f"  expected  {_shown(one.wanted)}"),
            Line(f"  answered  {_shown(one.said)}{ended}"),
        ]
    return lines


def _shown(text: str) -> str:
    """A text in one line."""
    line = " ".join(text.split())
    return printable(line if len(line) <= _LETTERS else f"{line[:_LETTERS]}…")
