"""Writes docs/reference/cli.md from the parsers that `--help` prints."""

import argparse
from importlib import import_module
from pathlib import Path

from dovetail.cli import VERBS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# The command line

Every verb is also a function of the package `dovetail`. `scripts/cli_page.py` writes this page from the
parsers behind `dovetail VERB --help`.

Data goes to stdout, talk to stderr. On a terminal tables are drawn and coloured, `NO_COLOR` turns colours
off; into a pipe or file goes plain text.

| exit code | meaning |
|---|---|
| 0 | good: the checkpoint is known, and no finding is an error |
| 1 | findings: not whole, not known, or a file that cannot be read |
| 2 | wrong usage |
| 3 | a bug in dovetail, or in the declaration of a family |
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(verb, summary) for verb, summary in VERBS.items())])


def section(verb: str, summary: str) -> str:
    """One verb."""
    parser = argparse.ArgumentParser(add_help=False)
    import_module(f"dovetail.cli.{verb}").configure(parser)
    actions = parser._actions
    usage = " ".join(["dovetail", verb, *map(use, sorted(actions, key=lambda one: not one.option_strings))])
    lines = [f"## {verb}", "", f"{summary[0].upper()}{summary[1:]}.", "", "```", usage, "```", ""]
    rows = [f"| `{name(one)}` | {(one.help or '').replace('|', chr(92) + '|')} |" for one in actions]
    return "\n".join([*lines, "| argument | meaning |", "|---|---|", *rows, ""])


def name(action: argparse.Action) -> str:
    """`--size SIZE`, `CKPT`."""
    value = [str(action.metavar or action.dest.upper())] if action.nargs != 0 else []
    return " ".join([*action.option_strings[-1:], *value])


def use(action: argparse.Action) -> str:
    """The argument as usage writes it."""
    return f"[{name(action)}]" if action.option_strings else name(action)


if __name__ == "__main__":
    main()
