"""A folder that appears whole or not at all: written beside its place, then renamed into it.

One process writes a folder at a time: it holds a lock on `OUT.partial`, which the system lets go of
however the process ends. A folder left by a killed run is continued when asked for, else refused.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType

from dovetail.errors import DovetailError, UsageError, WriteError

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE


@contextmanager
def publishing(
    out: str,
    needed: int = 0,
    *,
    resume: bool = False,
    overwrite: bool = False,
    sync: bool = True,
    accept: Callable[[str], None] | None = None,
    journal: str | None = None,
) -> Iterator[str]:
    """Gives a folder to write into; renames it to `out` at the end, removes it after an error.

    `needed` is the number of bytes that will be written, checked against the free space first.
    `resume` goes on with what a killed run left, if `accept` raises nothing about it; `overwrite` puts
    an existing `out` away at the end, and without `sync` the system puts all on the disk when it likes.
    `journal` is a file in the folder that goes once all is done.

    Raises:
        UsageError: `out` exists, or another run is writing it.
        WriteError: the place cannot be written to, or there is not enough room.
    """
    out = os.path.realpath(out)
    _check_place(out, overwrite=overwrite)
    partial = f"{out}.partial"
    new_folders = _missing_folders(os.path.dirname(out))
    try:
        for folder in new_folders:
            os.mkdir(folder)
        lock = _claim(partial, resume=resume, accept=accept)
    except OSError as error:
        _remove_empty(new_folders)
        raise _cannot_write(out, error) from error
    try:
        _check_room(out, partial, needed)
        yield partial
        if sync:
            _sync_tree(partial)
        replaced = _move(partial, out)
        if sync:
            _sync(os.path.dirname(out))
        if replaced is not None:
            _remove(replaced)
        if journal is not None:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(out, journal))
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(new_folders)
        if isinstance(error, OSError) and not isinstance(error, DovetailError):
            raise _cannot_write(out, error) from error
        raise
    finally:
        os.close(lock)


def _check_place(out: str, *, overwrite: bool) -> None:
    if not os.path.exists(out) or (os.path.isdir(out) and not os.listdir(out)):
        return
    if not overwrite:
        raise UsageError(f"`{out}` exists", hint="choose another name, or remove it first")
    if os.path.lexists(old := _old(out)):
        raise UsageError(
            f"`{old}` is in the way: what is replaced is put there first",
            hint="an earlier run may have left it; remove it or move it away",
        )


def _claim(partial: str, *, resume: bool, accept: Callable[[str], None] | None) -> int:
    """Makes or takes over the folder and locks it; gives the descriptor that holds the lock."""
    fcntl, is_new = _locks(), True
    try:
        os.mkdir(partial)
    except FileExistsError:
        is_new = False
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_new else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(lock)
        raise UsageError(f"another run is writing `{partial}`", hint="wait for it, or stop it") from error
    if not is_new and not resume:
        os.close(lock)
        raise UsageError(
            f"`{partial}` is left of a run that was killed", hint="go on with --resume, or remove it"
        )
    if not is_new and accept is not None:
        try:
            accept(partial)
        except BaseException:
            os.close(lock)
            raise
    return lock


def _locks() -> ModuleType:
    """The system's locks on files.

    Raises:
        WriteError: this is a system without them.
    """
    try:
        return import_module("fcntl")
    except ImportError:
        raise WriteError(
            f"dovetail cannot write on {sys.platform}, where no folder can be locked",
            hint="run it on Linux, in WSL, or on macOS",
        ) from None


def _missing_folders(path: str) -> list[str]:
    """The folders that must be made for a path, outermost first."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing[::-1]


def _remove_empty(folders: list[str]) -> None:
    with suppress(OSError):
        for folder in reversed(folders):
            os.rmdir(folder)


def _check_room(out: str, partial: str, needed: int) -> None:
    there = sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for folder, name in _files(partial))
    free = shutil.disk_usage(partial).free + there
    if needed > free:
        raise WriteError(f"not enough room for `{out}`", needed=f"{needed:,} bytes", free=f"{free:,} bytes")


def _move(partial: str, out: str) -> str | None:
    """Puts the folder in its place; gives where that which was there is now."""
    if os.path.isdir(out) and not os.listdir(out):
        os.rmdir(out)
    if not os.path.lexists(out):
        os.rename(partial, out)
        return None
    if os.path.isdir(out) and _exchange(partial, out):
        return partial
    old = _old(out)
    os.rename(out, old)
    try:
        os.rename(partial, out)
    except BaseException:
        os.rename(old, out)
        raise
    return old


def _remove(path: str) -> None:
    """Removes what was replaced, as far as one may: the new one is in place, whatever happens here."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        os.remove(path)


def _exchange(one: str, other: str) -> bool:
    """Two folders take each other's name in one step; False where the system cannot (renameat2(2))."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _old(out: str) -> str:
    """Where what is replaced is put for the moment between two renames."""
    return f"{out}.old"


def _files(folder: str) -> Iterator[tuple[str, str]]:
    for inside, _, names in os.walk(folder):
        for name in names:
            yield inside, name


def _sync_tree(folder: str) -> None:
    for inside, _, names in os.walk(folder):
        for name in names:
            _sync(os.path.join(inside, name))
        _sync(inside)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(out: str, error: OSError) -> WriteError:
    return WriteError(f"cannot write `{out}`: {error.strerror}", hint="nothing was left behind")
