"""A folder that appears whole or not at all: written beside its place, then renamed into it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

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
    try:
        os.makedirs(os.path.dirname(out), exist_ok=True)
        os.mkdir(partial)
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
    except FileExistsError as error:
        hint = f"another run may be writing it; if not, remove `{partial}`"
        raise UsageError(f"`{partial}` exists", hint=hint) from error
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, DovetailError):
            raise WriteError(
                f"cannot write `{out}`: {error.strerror}", hint="nothing was left behind"
            ) from error
        raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
