"""Writes docs/reference/cli.md from the parsers that `--help` prints."""

import argparse
from importlib import import_module
from pathlib import Path

from dovetail.cli import VERBS, Verb
from dovetail.cli.parser import Parser

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# The command line

Every verb is also a function of the package `dovetail`. `scripts/cli_page.py` writes this page from the
parsers behind `dovetail VERB --help`.

Data goes to stdout, talk to stderr. On a terminal lines are broken between words and coloured, and names
are never broken; `NO_COLOR` turns colours off. Into a pipe or file goes plain text in whole lines, with
colours if `FORCE_COLOR` is set. With `--json` an error is on stdout too, as
`{"error": {"type", "message", "details", "hint", "exit_code"}}`.

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
    return "\n".join([HEAD, *(section(name, verb) for name, verb in VERBS.items())])


def section(title: str, verb: Verb) -> str:
    """One verb."""
    parser = Parser(title, verb.help, verb.example, add_help=False)
    import_module(f"dovetail.cli.{title}").configure(parser)
    actions = parser._actions
    usage = " ".join(["dovetail", title, *map(use, sorted(actions, key=lambda one: not one.option_strings))])
    said = f"{verb.help[0].upper()}{verb.help[1:]}."
    lines = [f"## {title}", "", said, "", "```", usage, "```", "", "For example:", ""]
    lines += ["```sh", verb.example, "```", ""]
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
