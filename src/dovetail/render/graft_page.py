"""A graft as a page: what the new model gets from whom, and what of each donor is left over."""

from dovetail.edit.graft import Graft, Row
from dovetail.render.page import Line, Page, Table
from dovetail.report import counted


def graft_page(graft: Graft, out: str) -> Page:
    """Both sides, and what does not fit."""
    plan = graft.plan
    target = [row for row in graft.rows if row.side == "target"]
    left = [row for row in graft.rows if row.side == "donor"]
    page: Page = [
        Line(f"graft {plan.family.id}", "title"),
        Line(f"{plan.source} -> {out}", "dim"),
        Line(""),
        Table(
            ("the new model", ">leaves", "fate", "from"),
            tuple((row.template, str(row.leaves or ""), row.fate, row.donor or "") for row in target),
        ),
        Line(""),
        Line(_sum(target)),
        *(Line(f"note: {note}") for note in graft.notes),
    ]
    if left:
        page += [
            Line(""),
            Table(
                ("left over in a donor", ">leaves", "first", "donor"),
                tuple((row.template, str(row.leaves), row.first, row.donor or "") for row in left),
            ),
        ]
    for problem in graft.problems:
        page += [Line(""), Line(f"error: {problem}", "error")]
    return page


def _sum(rows: list[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        fate = row.fate.split(" from ", maxsplit=1)[0]
        if row.leaves:
            counts[fate] = counts.get(fate, 0) + row.leaves
    total = sum(counts.values())
    return f"of {counted(total, 'parameter')}: " + ", ".join(f"{n} {fate}" for fate, n in counts.items())
