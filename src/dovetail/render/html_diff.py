"""Two checkpoints compared, as an HTML page."""

import shlex

from dovetail.compare.difference import Difference
from dovetail.render.diff_page import difference_tables, setting_table, side
from dovetail.render.html_elements import Html, definitions, element, items, name, prose
from dovetail.render.html_page import Foot, Section, framed, verdict, write_pages
from dovetail.render.html_words import blocks


def write_difference(found: Difference, directory: str, *, options: str = "") -> list[str]:
    """Writes diff.json and diff.html into a folder; gives both paths. `options` are those of the command.

    Raises:
        WriteError: the folder or a file in it cannot be written.
    """
    page = diff_html(found, options=options)
    return write_pages({"diff.json": found.as_json(), "diff.html": page}, directory)


def diff_html(found: Difference, *, options: str = "", date: str | None = None) -> str:
    """The page."""
    paths = found.a.path, found.b.path
    state = "the same" if found.is_same else "different"
    tables = difference_tables(found)
    nothing = element("p", "No tensor is different.", class_="none")
    settings = setting_table(found)
    sections = [
        Section("tensors", "Tensors", "Tensors that differ", blocks(tables) or nothing),
        Section("settings", "Settings", "Settings that differ", blocks(settings)),
        Section("notes", "Notes", "Notes", items(map(prose, found.notes)) if found.notes else Html("")),
    ]
    top = element(
        "header",
        element("h1", f"{_short(paths[0])} and {_short(paths[1])}"),
        verdict(
            state,
            "whole" if found.is_same else "not-whole",
            prose(found.verdict.partition(": ")[2] or found.verdict),
        ),
        definitions((("A", name(side(found.a))), ("B", name(side(found.b)))), "identity"),
    )
    command = f"dovetail diff {shlex.join(paths)}{options} --report OUT"
    title = f"{_short(paths[0])} and {_short(paths[1])}: {state} - dovetail diff"
    return framed(title, top, sections, Foot(command, "diff.json", date=date))


def _short(path: str) -> str:
    """The last two pieces of a path."""
    return "/".join(path.rstrip("/").split("/")[-2:])
