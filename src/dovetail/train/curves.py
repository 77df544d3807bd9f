"""The curves of a run, out of its log: `curves.html` and `curves.png` beside it.

Every number that is logged is drawn or said; what is of one kind shares a panel.
"""

import math
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from dovetail.render.curves import Line, Panel
from dovetail.render.html_curves import curves_html
from dovetail.render.html_page import Foot, write_pages
from dovetail.train.run_log import NAME as LOG
from dovetail.train.run_log import Entry, RunLog, numeral

PAGE, PICTURE = "curves.html", "curves.png"
_SCHEDULE = "Learning rate"
# What a panel holds, by the names that are logged; the first that fits has it.
_PANELS = (
    ("Loss", ("loss", "*_loss")),
    ("Accuracy", ("*accuracy*", "*exact*")),
    (_SCHEDULE, ("learning_rate*",)),
    ("Gradient norm", ("grad_norm*",)),
    ("Tokens per second", ("*tokens_per_second*",)),
    ("Samples per second", ("samples_per_second", "train_samples_per_second")),
    ("Memory, GiB", ("*memory*",)),
    ("Share of the peak (MFU)", ("*mfu*",)),
)
# What says where an entry stands, and how long an evaluation or the whole run took.
_ASIDE = ("step", "epoch", "time", "total_flos", "*runtime*", "*_steps_per_second", "eval_samples_per_second")
_ASIDE_OF_THE_END = ("train_loss", "train_samples_per_second")


def panels_of(entries: Sequence[Entry]) -> list[Panel]:
    """The panels, in a fixed order; names that fit none have one each."""
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    lines = {name: line for name in names if not _is_aside(name) and (line := _line(name, entries))}
    panels = []
    for title, patterns in _PANELS:
        fitting = [
            name for name in lines if any(fnmatchcase(name.rpartition("/")[2], one) for one in patterns)
        ]
        if fitting:
            is_straight = title == _SCHEDULE
            panels.append(Panel(title, tuple(lines.pop(name) for name in fitting), is_straight))
    return panels + [Panel(name, (line,)) for name, line in lines.items()]


def write_curves(
    folder: str,
    *,
    title: str,
    said: Mapping[str, str],
    total: int,
    is_finished: bool,
    command: str,
    is_drawn: bool = True,
) -> list[str]:
    """Draws the log in a folder of a run; gives the paths. The picture needs matplotlib and is left out
    without it, or where `is_drawn` says so. `total` is the number of steps of the whole run.

    Raises:
        FormatError: the log has a line that is no JSON object.
        WriteError: the folder cannot be written to.
    """
    entries = RunLog(folder).read()
    panels = panels_of(entries)
    last = max((entry["step"] for entry in entries if isinstance(entry.get("step"), int)), default=0)
    state = ("finished", f"all {total} steps") if is_finished else ("running", f"step {last} of {total}")
    page = curves_html(title, panels, state=state, said=said, foot=Foot(command, LOG))
    paths = write_pages({PAGE: page}, folder)
    if is_drawn and panels and find_spec("matplotlib") is not None:
        from dovetail.render.curve_plot import write_curves as draw

        path = os.path.join(folder, PICTURE)
        partial = os.path.join(folder, f".{PICTURE}.partial.png")
        draw(panels, partial, title=title)
        os.replace(partial, path)
        paths.append(path)
    return paths


def _is_aside(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in (*_ASIDE, *_ASIDE_OF_THE_END))


def _line(name: str, entries: Sequence[Mapping[str, Any]]) -> Line | None:
    """The values of one name over the steps, None if it has no numbers."""
    found = [(entry.get("step", 0), numeral(entry[name])) for entry in entries if name in entry]
    known = [(step, value) for step, value in found if value is not None]
    if not known:
        return None
    points = tuple((float(step), value) for step, value in known if math.isfinite(value))
    lost = tuple(step for step, value in known if not math.isfinite(value))
    return Line(name, points, lost)
