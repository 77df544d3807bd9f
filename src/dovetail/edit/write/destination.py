"""Where a result may go: never over, into or around what it is made of, nor over what is no checkpoint."""

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from dovetail.edit.side_files.carried import is_travelling
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.errors import DovetailError, UsageError, listed
from dovetail.explain.documents import STAMP
from dovetail.families import all_families
from dovetail.store.folder import LocalFolder
from dovetail.store.open import open_checkpoint
from dovetail.store.store import Store
from dovetail.store.write.publish import check_no_mount

# What stands beside weights and does not travel to another layout: indexes, what this tool writes, and
# what `git clone` and `hf download` leave. `.git` itself is somebody's history and not among them.
_BESIDE = ("*.index.json", f"*{STAMP}", "model_config.yaml", JOURNAL, ".gitattributes")
_DOWNLOADED = os.path.join(".cache", "huggingface", "")
_MODULE = ".py"
_NAMES_MODULES = b'"auto_map"'


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
    check_no_mount(place)
    if is_there and not overwrite:
        raise UsageError(f"`{out}` exists", hint="choose another name, or replace it with --overwrite")
    if is_there:
        check_replaceable(out)


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


def check_replaceable(out: str) -> None:
    """Refuses to replace what is not one checkpoint and nothing else, and names what would be lost.

    Raises:
        UsageError: it is something else, or holds something else as well.
    """
    place = os.path.realpath(out)
    if not os.path.isdir(place):
        raise UsageError(
            f"`{out}` is no folder, so --overwrite does not replace it",
            hint="choose another name, or remove it yourself",
        )
    try:
        with open_checkpoint(place) as store:
            lost = _others(place, store)
    except DovetailError as error:
        raise UsageError(
            f"`{out}` holds no checkpoint, so --overwrite does not replace it",
            found=error.message,
            hint="choose another name, or remove it yourself",
        ) from error
    if lost:
        raise UsageError(
            f"`{out}` holds more than a checkpoint, so --overwrite does not replace it",
            would_be_lost=listed(lost),
            hint="move these files away, or choose another name",
        )


def _others(place: str, store: Store) -> list[str]:
    """The files in a folder that are no part of the checkpoint in it."""
    weights = {os.path.realpath(path) for path in _paths(store)}
    homes = {"", *(os.path.relpath(os.path.dirname(path), place) for path in weights)} - {"."}
    names = sorted(_files(place))
    has_modules = any(_names_modules(os.path.join(place, name)) for name in names)
    return [
        name
        for name in names
        if os.path.realpath(os.path.join(place, name)) not in weights
        and not name.startswith(_DOWNLOADED)
        and not _is_beside(name, homes, has_modules=has_modules)
    ]


def _files(place: str) -> Iterator[str]:
    """Every file below a folder, and every link to a folder, from the folder on."""
    for home, folders, names in os.walk(place):
        links = [name for name in folders if os.path.islink(os.path.join(home, name))]
        for name in (*names, *links):
            yield os.path.relpath(os.path.join(home, name), place)


def _is_beside(name: str, homes: set[str], *, has_modules: bool) -> bool:
    """Whether a file is one that stands beside weights. Modules do where a config names some."""
    if name.endswith(_MODULE) and not has_modules:
        return False
    of_families = tuple(one.side_file[0] for one in all_families() if one.side_file is not None)
    inside = [
        name.removeprefix(home + os.sep) for home in homes if home == "" or name.startswith(home + os.sep)
    ]
    patterns = (*_BESIDE, *of_families)
    return any(
        is_travelling(one) or (os.sep not in one and any(fnmatchcase(one, pattern) for pattern in patterns))
        for one in inside
    )


def _names_modules(path: str) -> bool:
    if not path.endswith("config.json"):
        return False
    with open(path, "rb") as file:
        return _NAMES_MODULES in file.read(1 << 20)
