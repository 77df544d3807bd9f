"""The checkpoints in the folder of a run that are called `best` and `last`, whoever trained it.

best, best.ckpt          what has the name, a link to a save too
checkpoint-20/           saves of the Trainer; its trainer_state.json says which is the best
epoch=2-val_loss=0.31.ckpt      Lightning's names; the lowest loss is the best, the latest epoch the last
"""

import json
import os
import re
from collections.abc import Callable, Sequence

from dovetail.errors import UsageError, listed

WORDS = ("best", "last")
_ENDINGS = ("", ".ckpt", ".pt", ".pth", ".safetensors")
_SAVE = re.compile(r"checkpoint-([0-9]+)")
_LOSS = re.compile(r"(?:val|eval)_?loss[=_-]?([0-9]+\.[0-9]+)")
_EPOCH = re.compile(r"epoch[=_-]?([0-9]+)")
_STATE = "trainer_state.json"


def named_save(folder: str, name: str) -> str:
    """The path of a checkpoint in the folder of a run: the `best`, the `last`, or one by its own name.

    Raises:
        UsageError: there is no such folder, or nothing in it is called so.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder `{folder}`", hint="give the folder of a run")
    names = sorted(os.listdir(folder))
    found = next((name + ending for ending in _ENDINGS if name + ending in names), None)
    if found is None and name in WORDS:
        found = _best(folder, names) if name == "best" else _last(names)
    if found is None:
        raise UsageError(
            f"nothing says which checkpoint in `{folder}` is `{name}`",
            found=listed(names, 8) or "nothing",
            hint="give one of them by its name, or its path alone, without --checkpoint-dir",
        )
    return os.path.join(folder, found)


def _best(folder: str, names: Sequence[str]) -> str | None:
    """What the newest save of the Trainer calls the best, or the name with the lowest loss."""
    newest = _last([name for name in names if _SAVE.fullmatch(name)])
    for place in ("", newest or ""):
        said = os.path.basename(_said(os.path.join(folder, place, _STATE)))
        if said and said in names:
            return said
    return _chosen(names, _LOSS, min)


def _last(names: Sequence[str]) -> str | None:
    """The save of the latest step, or the name of the latest epoch."""
    return _chosen(names, _SAVE, max) or _chosen(names, _EPOCH, max)


def _chosen(
    names: Sequence[str], pattern: re.Pattern[str], choose: Callable[[dict[str, float]], str]
) -> str | None:
    """The name whose number is the lowest or the highest."""
    is_whole = pattern is _SAVE
    matches = {name: pattern.fullmatch(name) if is_whole else pattern.search(name) for name in names}
    numbers = {name: float(match[1]) for name, match in matches.items() if match}
    return choose(numbers, key=numbers.__getitem__) if numbers else None  # type: ignore[call-arg]


def _said(path: str) -> str:
    """What the state of the Trainer names as the best checkpoint."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError, RecursionError):
        return ""
    said = values.get("best_model_checkpoint") if isinstance(values, dict) else None
    return said if isinstance(said, str) else ""
