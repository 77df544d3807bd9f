"""What `dovetail --help` prints: the verbs by what they are for, each with a command to begin with."""

from dovetail.cli import VERBS
from dovetail.render.page import Line, Page

_FOOT = (
    "CKPT is a folder, a weights file, an index or header listing, a URL, or hf://owner/name[@revision].",
    "`dovetail VERB --help` lists the options of a verb; --json is one of each that reports.",
    "exit codes: 0 good, 1 findings, 2 wrong usage, 3 our bug",
)


def overview() -> Page:
    """The page."""
    page: Page = [
        Line("usage: dovetail VERB …    dovetail help VERB    dovetail --version"),
        Line(""),
        Line("The tool for the weights of vision-language(-action) models."),
    ]
    job = ""
    for name, verb in VERBS.items():
        if verb.job != job:
            job = verb.job
            page += [Line(""), Line(job, "title")]
        page += [Line(f"  {name:<13}{verb.help}"), Line(f"    $ {verb.example}", "dim")]
    return [*page, Line(""), *(Line(text) for text in _FOOT)]
