"""A stamp as a page: what was written down and whence it is, and what is still open."""

from dovetail.edit.stamp import Stamped
from dovetail.render.page import Line, Page, Table, shown_value
from dovetail.report import counted


def stamp_page(found: Stamped) -> Page:
    """What a stamp says that weights cannot show, and what nobody has said."""
    page: Page = [Line(f"stamp {found.family}", "title"), Line(found.path, "dim")]
    weights = sum(value.source == "weights" for value in found.values.values())
    said = [(name, value) for name, value in found.values.items() if value.source != "weights"]
    page += [Line(""), Line(f"{counted(weights, 'value')} from the weights, {len(said)} from elsewhere")]
    if said:
        rows = tuple((name, shown_value(value.value), value.source, value.evidence) for name, value in said)
        page.append(Table(("value", ">is", "source", "where it stands"), rows))
    if found.still_open:
        rows = tuple(
            (name, "?" if value.value is None else shown_value(value.value), value.source, value.evidence)
            for name, value in sorted(found.still_open.items(), key=lambda one: one[1].value is not None)
        )
        page += [Line(""), Line("still open, and not written: say them with --set NAME=VALUE", "warning")]
        page.append(Table(("value", ">assumed", "source", "why"), rows))
    page += [Line(f"note: {note}", "note") for note in found.notes]
    hashed = found.fingerprint or "none: the values were not read"
    page += [Line(""), Line(f"fingerprint {hashed}")]
    word = "wrote" if found.is_written else "would write (dry run)"
    page += [Line(f"{word} {path}", "good") for path in found.files]
    return page
