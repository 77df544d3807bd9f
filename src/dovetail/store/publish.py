"""A folder that appears whole or not at all: written beside its place, then renamed into it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dovetail.errors import DovetailError, UsageError, WriteError


@contextmanager
def publishing(out: str, needed: int = 0) -> Iterator[str]:
    """Gives a new folder to write into; renames it to `out` at the end, removes it after an error.

    `needed` is the number of bytes that will be written, checked against the free space first.

    Raises:
        UsageError: `out` exists.
        WriteError: the place cannot be written to, or there is not enough room.
    """
    out = os.path.abspath(out)
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UsageError(f"`{out}` exists", hint="choose another name, or remove it first")
    partial = f"{out}.partial"
    new_folders = _missing_folders(os.path.dirname(out))
    try:
        for folder in new_folders:
            os.mkdir(folder)
        _make_partial(partial)
        free = shutil.disk_usage(partial).free
        if needed > free:
            raise WriteError(
                f"not enough room for `{out}`", needed=f"{needed:,} bytes", free=f"{free:,} bytes"
            )
        yield partial
        for name in os.listdir(partial):
            _sync(os.path.join(partial, name))
        if os.path.isdir(out):
            os.rmdir(out)
        os.rename(partial, out)
        _sync(os.path.dirname(out))
    except _Taken:
        hint = f"another run may be writing it; if not, remove `{partial}`"
        raise UsageError(f"`{partial}` exists", hint=hint) from None
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            for folder in reversed(new_folders):
                os.rmdir(folder)
        if isinstance(error, OSError) and not isinstance(error, DovetailError):
            raise WriteError(
                f"cannot write `{out}`: {error.strerror}", hint="nothing was left behind"
            ) from error
        raise


class _Taken(Exception):
    """Somebody is writing, or was stopped."""


def _make_partial(partial: str) -> None:
    try:
        os.mkdir(partial)
    except FileExistsError:
        raise _Taken from None


def _missing_folders(path: str) -> list[str]:
    """The folders above and up to this one that do not exist, outermost first."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing[::-1]


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
