"""Writes docs/reference/families.md and the table of README.md from what `dovetail families --json` says."""

from pathlib import Path
from typing import Any

from dovetail.errors import bare
from dovetail.families import built_in
from dovetail.verbs import families

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "reference" / "families.md", ROOT / "README.md"
# Between which lines of README.md the table stands.
BEGIN, END = "<!-- scripts/families_page.py writes this table -->\n", "<!-- until here -->\n"
HEAD = """# Families

What dovetail knows by itself; packages add more ([guide](../guides/family.md)). `scripts/families_page.py`
writes this page from `dovetail families --json`.

A part is a role and the kinds that may fill it. A layout that is *read only* comes from a bug, or nothing
else reads it. Sizes are the published ones that `dovetail make --size` takes.
"""


def main() -> None:
    """Writes the page and the table."""
    PAGE.write_text(page(), encoding="utf-8")
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + table() + rest.partition(END)[2], encoding="utf-8")


def page() -> str:
    """The whole page."""
    own = {family.id for family in built_in()}
    return "\n".join([HEAD, *(section(one) for one in families() if one["family"] in own)])


def table() -> str:
    """The table of README.md with its marks: families of the same parts and layouts in one row."""
    own = {family.id for family in built_in()}
    alike: dict[tuple[str, str], list[str]] = {}
    for one in families():
        if one["family"] in own:
            layouts = ", ".join(one["id"] + ("" if one["writable"] else " †") for one in one["layouts"])
            alike.setdefault((", ".join(one["parts"]), layouts), []).append(called(one))
    rows = [f"| {', '.join(ids)} | {parts} | {layouts} |" for (parts, layouts), ids in alike.items()]
    return "\n".join([BEGIN, "| family | parts | layouts |", "|---|---|---|", *rows, "", END])


def called(one: dict[str, Any]) -> str:
    """The id of a family, and the names of other projects that it is known by."""
    others = [word for word in one["title"].split(" / ") if bare(word) != bare(one["family"])]
    return f"`{one['family']}`" + (f" ({', '.join(others)})" if others else "")


def section(one: dict[str, Any]) -> str:
    """One family."""
    parts = ", ".join(f"{role} ({kinds(ids)})" for role, ids in one["parts"].items())
    lines = [
        f"## {one['family']}",
        "",
        f"{one['title']}.",
        "",
        f"- parts: {parts}",
        f"- sizes: {code(one['sizes'])}",
    ]
    if one["variants"]:
        said = ", ".join(f"`{key}` is {variant}" for key, variant in one["variants"].items())
        lines.append(f"- variants, by `model_type`: {said}")
    lines += [
        f"- sources: {', '.join(one['sources'])}",
        "",
        "| layout | access | `--for` | what it is |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(row, one["layouts"]), ""])


def kinds(ids: list[str]) -> str:
    """The kinds of a part, each once."""
    return code(list(dict.fromkeys(ids)))


def code(names: list[str]) -> str:
    """Names in code style."""
    return ", ".join(f"`{name}`" for name in names)


def row(layout: dict[str, Any]) -> str:
    """One layout as a row."""
    access = "read, write" if layout["writable"] else "read only"
    same = f" (same names and shapes as {code(layout['same_as'])})" if layout["same_as"] else ""
    note = layout["note"].replace("|", "\\|")
    return f"| `{layout['id']}` | {access} | {code(layout['readers'])} | {note}{same} |"


if __name__ == "__main__":
    main()
