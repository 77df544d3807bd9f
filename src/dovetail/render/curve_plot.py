"""The curves of a run as a picture, one small panel each."""

import math
from collections.abc import Sequence
from typing import Any

from dovetail.errors import WriteError
from dovetail.render.curves import Panel

_COLUMNS = 2
_COLOURS = ("#2f6f9f", "#b4562a", "#3d7a4a", "#7a4a8c", "#6b6b2a", "#444444")
_STROKES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))


def write_curves(panels: Sequence[Panel], path: str, *, title: str = "") -> None:
    """Draws the panels into a file of the kind that its name ends with; needs matplotlib.

    Raises:
        WriteError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels)) or 1
    rows = math.ceil(len(panels) / columns) or 1
    figure = Figure(figsize=(5.2 * columns, 2.5 * rows + 0.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, place in zip(panels, places, strict=False):
        _draw(panel, place)
    for place in places[len(panels) :]:
        place.set_axis_off()
    figure.supxlabel("step", fontsize=9)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    try:
        figure.savefig(path)
    except OSError as error:
        raise WriteError(f"cannot write `{path}`: {error.strerror}", hint="choose another place") from error


def _draw(panel: Panel, place: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    for i, line in enumerate(panel.lines):
        look = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _STROKES[i % len(_STROKES)]}
        smooth = line.smooth
        marker = "o" if len(line.points) == 1 else None
        for one, options in (
            (line, {"alpha": 0.35, "linewidth": 0.8} if smooth else {"label": line.name, "linewidth": 1.5}),
            (smooth, {"label": f"{line.name}, running mean", "linewidth": 1.6}),
        ):
            if one is not None:
                steps, values = zip(*one.drawn, strict=True) if one.drawn else ((), ())
                place.plot(steps, values, marker=marker, markersize=4, **look, **options)
    if panel.is_logarithmic:
        place.set_yscale("log")
    place.set_title(panel.title, fontsize=9, loc="left")
    place.tick_params(labelsize=7)
    place.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    place.grid(alpha=0.25, linewidth=0.5)
    place.spines[["top", "right"]].set_visible(False)
    if len(panel.lines) > 1:
        place.legend(fontsize=7, frameon=False)
