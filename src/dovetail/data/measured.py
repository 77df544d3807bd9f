"""The states and actions of a data set, measured, to normalise them or to hold them against a checkpoint.

Actions are also measured as changes from the state, as openpi's `DeltaActions` makes them before it measures.

Source: openpi@15a9616 `transforms.py:DeltaActions`, `scripts/compute_norm_stats.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dovetail.data.episodes import Episodes
from dovetail.data.spread import Spread
from dovetail.errors import FormatError

# Steps of a chunk, as shares of it, at which changes are measured.
_STEPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


class Measured(NamedTuple):
    """Spreads of state and actions; `changes` are actions less the state, None where widths differ. `broken`
    are places with NaN or infinity."""

    state: Spread
    actions: Spread
    changes: Spread | None
    broken: tuple[str, ...]


def measure(
    episodes: Episodes, *, horizon: int = 1, progress: Callable[[int, int], None] | None = None
) -> Measured:
    """Measures all episodes, one after the other. `progress` is told how many of how many are done.

    Raises:
        FormatError: an episode is damaged, or all numbers are NaN.
    """
    state, actions, changes = Spread(), Spread(), Spread()
    is_alike = True
    broken: list[str] = []
    for i in range(len(episodes.lengths)):
        recorded = episodes.numbers(i)
        for what, rows in (("state", recorded.state), ("action", recorded.actions)):
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            broken += [f"episode {i}, frame {frame}: {what}" for frame in bad]
        state.add(recorded.state)
        actions.add(recorded.actions)
        is_alike = is_alike and recorded.state.shape == recorded.actions.shape
        if is_alike:
            ahead = np.unique(np.rint(_STEPS * (horizon - 1)).astype(int))
            frames = np.arange(len(recorded.state))
            for step in ahead:
                later = np.minimum(frames + step, len(frames) - 1)
                changes.add(recorded.actions[later] - recorded.state)
        if progress:
            progress(i + 1, len(episodes.lengths))
    if not state.count or not actions.count:
        raise FormatError(
            "no frame has a whole state and action", folder=episodes.source, hint="all of them hold NaN"
        )
    return Measured(state, actions, changes if is_alike else None, tuple(broken))
