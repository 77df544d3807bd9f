"""Where a result may go: never over, into or around what it is made of, nor over what is no checkpoint."""

import os
import re
from collections.abc import Iterable

from dovetail.errors import UsageError
from dovetail.store.folder import LocalFolder
from dovetail.store.store import Store

# What a folder that dovetail, a trainer or the hub wrote has at its top, or in the folders of nodes.
_CHECKPOINT = re.compile(r"([^/]+\.(safetensors|bin|pth|pt|ckpt)|dovetail\.json|(node[0-9]+|chunks)/.+)")


def check_place(out: str, stores: Iterable[Store], *, overwrite: bool) -> None:
    """Refuses a place where writing would harm a source, or replace something else than a checkpoint.

    Raises:
        UsageError: it is such a place.
    """
    place = os.path.realpath(out)
    is_there = os.path.lexists(place) and not (os.path.isdir(place) and not os.listdir(place))
    for store in stores:
        for source in (store.path, *_paths(store)):
            _check_source(place, os.path.realpath(source))
    if is_there and not overwrite:
        raise UsageError(f"`{out}` exists", hint="choose another name, or replace it with --overwrite")
    is_folder = os.path.isdir(place)
    if is_there and not (is_folder and _is_checkpoint(place)):
        why = "holds no checkpoint" if is_folder else "is no folder"
        raise UsageError(
            f"`{out}` {why}, so --overwrite does not replace it",
            hint="choose another name, or remove it yourself",
        )


def _paths(store: Store) -> list[str]:
    if not isinstance(store.folder, LocalFolder):
        return []
    return [os.path.join(store.folder.name, file) for file in store.files]


def _check_source(place: str, source: str) -> None:
    if place == source or source.startswith(place + os.sep):
        raise UsageError(
            f"`{place}` is {'' if place == source else 'around '}the source itself",
            hint="write to another folder; what is read must stay as it is until the end",
        )
    if place.startswith(source + os.sep):
        raise UsageError(
            f"`{place}` is inside the source `{source}`",
            hint="write to a folder outside it, so that the source stays one checkpoint",
        )


def _is_checkpoint(folder: str) -> bool:
    found = (
        os.path.relpath(os.path.join(home, name), folder)
        for home, _, names in os.walk(folder)
        for name in names
    )
    return any(_CHECKPOINT.fullmatch(name) for name in found)
