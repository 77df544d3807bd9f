"""A folder that appears whole or not at all: written beside its place, then renamed into it.

A run that fails or is interrupted leaves what it wrote as `OUT.partial`, says so, and says how to go on
and how to be rid of it. Only what nothing can be done with is removed by the run that made it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dovetail.errors import DovetailError, UsageError, WriteError
from dovetail.store.write.partial import claim, partial_of, removal, ways_on
from dovetail.store.write.rename import exchange, is_mount_point, rename_new, rename_over_empty


@contextmanager
def publishing(
    out: str,
    needed: int = 0,
    *,
    resume: bool = False,
    replaces: Callable[[str], None] | None = None,
    sync: bool = True,
    accept: Callable[[str], None] | None = None,
    keeps: Callable[[str], str | None] | None = None,
    journal: str | None = None,
) -> Iterator[str]:
    """Gives a folder to write into; renames it to `out` at the end.

    `needed` is the number of bytes that will be written, checked against the free space first. `resume`
    goes on with what an earlier run left, if `accept` raises nothing about it. What is at `out` is replaced
    if `replaces` is given and raises nothing about it, at the end as at the beginning. Without `sync` the
    system puts all on the disk when it likes. After an error `keeps` says what can be done with the folder,
    None if nothing: then it goes, if this run made it. `journal` is a file in it that goes once all is done.

    Raises:
        UsageError: `out` exists, cannot be replaced, or another run is writing it.
        WriteError: the place cannot be written to, or there is not enough room.
    """
    out = os.path.realpath(out)
    _check_out(out, replaces)
    partial = partial_of(out)
    new_folders = _missing_folders(os.path.dirname(out))
    try:
        for folder in new_folders:
            os.mkdir(folder)
        lock, is_new = claim(partial, resume=resume, journal=journal, accept=accept)
    except OSError as error:
        _remove_empty(new_folders)
        raise _cannot_write(out, error, "nothing was written; choose another place") from error
    try:
        try:
            _check_room(out, partial, needed)
            yield partial
            if sync:
                _sync_tree(partial)
            replaced = _move(partial, out, replaces)
        except BaseException as error:
            words = _left(partial, keeps, is_new=is_new)
            _remove_empty(new_folders)
            if isinstance(error, OSError):
                raise _cannot_write(out, error, words or "nothing was left of it") from error
            if words is not None:
                _say(error, words)
            raise
        _tidy(out, replaced, journal, sync=sync)
    finally:
        os.close(lock)


def _check_out(out: str, replaces: Callable[[str], None] | None) -> None:
    check_no_mount(out)
    if not os.path.lexists(out) or _is_empty(out):
        return
    if replaces is None:
        raise UsageError(f"`{out}` exists", hint="choose another name, or remove it first")
    replaces(out)
    if os.path.lexists(old := _old(out)):
        raise UsageError(
            f"`{old}` is in the way: what is replaced is put there first",
            hint="an earlier run may have left it; remove it or move it away",
        )


def check_no_mount(out: str) -> None:
    """Refuses a folder that something is mounted at, before anything is written beside it.

    Raises:
        UsageError: it is one.
    """
    if os.path.isdir(out) and is_mount_point(out):
        raise UsageError(
            f"`{out}` is a mount point: a result appears by being renamed, and nothing can be renamed to it",
            hint=f"write to a folder on it, for example `{os.path.join(out, 'model')}`",
        )


def _is_empty(path: str) -> bool:
    return os.path.isdir(path) and not os.listdir(path)


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
    there = sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for folder, name in _files(partial))
    free = shutil.disk_usage(partial).free + there
    if needed > free:
        raise WriteError(
            f"not enough room for `{out}`",
            needed=f"{needed:,} bytes",
            free=f"{free:,} bytes",
            hint="make room, or write to another disk",
        )


def _left(partial: str, keeps: Callable[[str], str | None] | None, *, is_new: bool) -> str | None:
    """What is to be said of the folder of a run that failed, None if it is gone."""
    words = keeps(partial) if keeps is not None else None
    if words is None and is_new:
        shutil.rmtree(partial, ignore_errors=True)
    if not os.path.lexists(partial):
        return None
    words = words or (ways_on(partial) if keeps is not None else f"remove it with `{removal(partial)}`")
    return f"what was written is kept in `{partial}`: {words}"


def _say(error: BaseException, words: str) -> None:
    """Adds the next step to an error that is on its way, as a note where it is not one of ours."""
    if isinstance(error, DovetailError):
        error.hint = f"{error.hint}; {words}" if error.hint else words
    else:
        error.add_note(words)


def _move(partial: str, out: str, replaces: Callable[[str], None] | None) -> str | None:
    """Puts the folder in its place; gives where that which was there is now.

    What is at the place was perhaps not there at the beginning, so it is looked at again, and once more
    when it is out of everybody's way and about to be removed.
    """
    if rename_new(partial, out) or (_is_empty(out) and rename_over_empty(partial, out)):
        return None
    if replaces is None:
        raise WriteError(
            f"`{out}` appeared while it was written, and nobody said that it may be replaced",
            hint="move it away, or replace it with --overwrite",
        )
    replaces(out)
    old = partial if exchange(partial, out) else _put_aside(partial, out)
    try:
        replaces(old)
    except BaseException:
        _put_back(partial, out, old)
        raise
    return old


def _put_aside(partial: str, out: str) -> str:
    """Two renames where the system has no exchange; gives where the old one is."""
    old = _old(out)
    if not rename_new(out, old):
        raise WriteError(
            f"`{old}` is in the way: what is replaced is put there first", hint="move it away, then try again"
        )
    try:
        if not rename_new(partial, out):
            raise WriteError(
                f"`{out}` appeared while the old one was put aside as `{old}`",
                hint="move it away, then try again",
            )
    except BaseException:
        rename_new(old, out)
        raise
    return old


def _put_back(partial: str, out: str, old: str) -> None:
    if old == partial:
        exchange(partial, out)
    else:
        os.rename(out, partial)
        rename_new(old, out)


def _tidy(out: str, replaced: str | None, journal: str | None, *, sync: bool) -> None:
    """What is left to do once the result is in its place."""
    try:
        if sync:
            _sync(os.path.dirname(out))
        if journal is not None:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(out, journal))
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        words = f"`{out}` is complete, but perhaps not all of it on the disk yet"
        raise _cannot_write(out, error, words) from error
    except KeyboardInterrupt as interruption:
        interruption.add_note(f"`{out}` is complete")
        if replaced is not None and os.path.lexists(replaced):
            interruption.add_note(f"what it replaces: remove it with `{removal(replaced)}`")
        raise


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


def _cannot_write(out: str, error: OSError, words: str) -> WriteError:
    return WriteError(f"cannot write `{out}`: {error.strerror}", hint=words)
