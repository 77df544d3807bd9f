"""A chunk of actions as a picture: one small panel for each action, over the steps."""

import math
import os
from typing import TYPE_CHECKING

from dovetail.errors import UsageError, WriteError

if TYPE_CHECKING:
    import numpy as np

_COLUMNS = 4


def check_plot(path: str) -> None:
    """Raises unless a picture can be drawn and has a place to go.

    Raises:
        UsageError: matplotlib is not installed, or it does not write such files.
        WriteError: there is no such folder.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise UsageError("--plot needs matplotlib", hint="pip install 'dovetail-weights[plot]'") from None
    kind = os.path.splitext(path)[1].removeprefix(".")
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if kind not in kinds:
        raise UsageError(
            f"`{path}` is no picture", hint=f"end it with .png, or another of {', '.join(kinds)}"
        )
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise WriteError(f"there is no folder `{folder}`", hint="make it first")


def write_plot(actions: "np.ndarray", path: str, *, title: str = "") -> None:
    """Draws actions [steps, width] into a file.

    Raises:
        WriteError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, width = actions.shape
    columns = min(_COLUMNS, width)
    rows = math.ceil(width / columns)
    figure = Figure(figsize=(3 * columns, 1.7 * rows + 0.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for i, panel in enumerate(panels):
        if i >= width:
            panel.set_axis_off()
            continue
        panel.plot(range(steps), actions[:, i], linewidth=1.4, color="#2f6f9f")
        panel.set_title(f"action {i}", fontsize=8, loc="left")
        panel.tick_params(labelsize=7)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        if i + columns >= width:
            panel.tick_params(labelbottom=True)
    figure.supxlabel("step", fontsize=8)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    try:
        figure.savefig(path)
    except OSError as error:
        raise WriteError(f"cannot write `{path}`: {error.strerror}", hint="choose another place") from error
