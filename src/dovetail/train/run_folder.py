"""The folder of a run: which saves are in it, which is the newest, and what a run that was killed left there.

checkpoint-20/            a save: it appears by one rename, so what has this name is whole
checkpoint-20.state/      the state of the Trainer on its way into a save
checkpoint-20.partial/    a save that is being written, or was cut
checkpoint-10.removed/    a save on its way out
last, best                links to saves
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from dovetail.errors import UsageError, listed

_SAVE = re.compile(r"checkpoint-([0-9]+)")
_LEFT = re.compile(r"checkpoint-[0-9]+\.(state|partial|removed)|merged\.partial")
MERGED = "merged"
# Workers of a data loader hold the lock of a run that was killed until they see that it is gone (5 s, torch).
_PATIENCE = 15.0


def save_of(folder: str, step: int) -> str:
    """The name of the save after so many steps."""
    return os.path.join(folder, f"checkpoint-{step}")


def saves(folder: str) -> dict[int, str]:
    """The saves in a folder, by their steps."""
    if not os.path.isdir(folder):
        return {}
    found = ((_SAVE.fullmatch(name), name) for name in os.listdir(folder))
    numbered = {int(match[1]): os.path.join(folder, name) for match, name in found if match}
    return dict(sorted(numbered.items()))


def chosen_save(folder: str, asked: str | bool | None) -> str | None:
    """The save to go on from: under `True` the newest, if there is one; none where nothing is asked.

    Raises:
        UsageError: there is no such save, a newer one would be overwritten, or the folder has saves of a run
            and nothing says to go on with it.
    """
    there = saves(folder)
    newest = there[max(there)] if there else None
    if not asked:
        if newest is not None:
            raise UsageError(
                f"`{folder}` holds a run already: {os.path.basename(newest)}",
                hint="--resume goes on with it; choose another --output-dir for a new run",
            )
        return None
    if asked is True:
        return newest
    place = os.path.realpath(asked)
    match = _SAVE.fullmatch(os.path.basename(place))
    if match is None or not os.path.isdir(place):
        raise UsageError(
            f"there is no save `{asked}` to go on from",
            found=listed([os.path.basename(one) for one in there.values()], 5) or "none",
            hint="give --resume alone: it takes the newest",
        )
    later = [os.path.basename(one) for step, one in there.items() if step > int(match[1])]
    if later and os.path.realpath(os.path.dirname(place)) == os.path.realpath(folder):
        raise UsageError(
            f"`{folder}` has saves after `{os.path.basename(place)}`: {listed(later, 5)}",
            hint="move them away first: a run that goes on from an earlier step writes them anew",
        )
    return place


@contextmanager
def held(folder: str) -> Iterator[None]:
    """The folder for one run alone, cleared of what a killed one left.

    Raises:
        UsageError: another run has it.
    """
    os.makedirs(folder, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _take(lock, folder)
        for name in os.listdir(folder):
            if _LEFT.fullmatch(name):
                shutil.rmtree(os.path.join(folder, name))
        yield
    finally:
        os.close(lock)


def _take(lock: int, folder: str) -> None:
    fcntl = import_module("fcntl")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise UsageError(
                    f"another run is training into `{folder}`", hint="wait for it, or choose another folder"
                ) from None
            time.sleep(0.2)
        else:
            return


def remove(place: str) -> None:
    """Takes a save away: it is out of sight at once, whenever this is cut."""
    away = f"{place}.removed"
    os.rename(place, away)
    shutil.rmtree(away)


def rotate(folder: str, *, most: int | None, best: str | None) -> None:
    """Removes the oldest saves, so that at most so many are left. The newest and the best one stay."""
    there = list(saves(folder).values())
    kept = {there[-1]} if there else set()
    if best is not None:
        kept |= {one for one in there if os.path.basename(one) == os.path.basename(best)}
    over = len(there) - max(most, len(kept)) if most else 0
    for place in [one for one in there if one not in kept][: max(over, 0)]:
        remove(place)


def link(folder: str, name: str, place: str | None) -> None:
    """Makes `name` in the folder lead to a save; takes it away where there is none."""
    path = os.path.join(folder, name)
    if os.path.lexists(path) and not os.path.islink(path):
        return  # somebody's own
    if place is None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(os.path.basename(place), new)
    os.replace(new, path)
