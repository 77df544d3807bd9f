"""`OUT.partial`, the folder in which a result comes into being: whose it is, and what is left in it.

One run at a time has it, by a lock that the system lets go of however the run ends. Nothing in it is
trusted because of its place: what a run does not write itself is refused by name.
"""

import os
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from shlex import quote
from types import ModuleType

from dovetail.errors import UsageError, WriteError, listed


def partial_of(out: str) -> str:
    """Where a result is while it is written."""
    return f"{os.path.realpath(out)}.partial"


def check_nothing_left(partial: str, *, journal: str | None) -> None:
    """Refuses to begin where an earlier run left something.

    Raises:
        UsageError: it did, or something else has this name.
    """
    if os.path.lexists(partial):
        _check_folder(partial)
        raise _is_left(partial, can_go_on=journal is not None and _has(partial, journal))


def claim(
    partial: str, *, resume: bool, journal: str | None, accept: Callable[[str], None] | None
) -> tuple[int, bool]:
    """Makes or takes over the folder and locks it; gives the descriptor of the lock and whether it is new.

    `journal` is the file in it without which nothing can be gone on with.

    Raises:
        OSError: the system refuses.
        UsageError: another run has it, an earlier run left it and `resume` is not said, or `accept` says no.
    """
    fcntl, is_new = _locks(), True
    try:
        os.mkdir(partial)
    except FileExistsError:
        is_new = False
        _check_folder(partial)
    lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_new else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise _is_taken(partial) from error
        if not _is_still(partial, lock):
            raise _is_taken(partial)
        if not is_new and not resume:
            check_nothing_left(partial, journal=journal)
        if not is_new and accept is not None:
            accept(partial)
    except BaseException:
        os.close(lock)
        raise
    return lock, is_new


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


def _check_folder(partial: str) -> None:
    if not stat.S_ISDIR(os.lstat(partial).st_mode):
        raise UsageError(
            f"`{partial}` is in the way: what is written has this name until it is complete",
            hint="move it away, or write to another place",
        )


def _is_still(partial: str, lock: int) -> bool:
    """Whether the locked folder has not been renamed meanwhile by the run that it was of."""
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(partial))
    except FileNotFoundError:
        return False


def _has(partial: str, name: str) -> bool:
    return os.path.lexists(os.path.join(partial, name))


def _is_taken(partial: str) -> UsageError:
    return UsageError(f"another run is writing `{partial}`", hint="wait for it, or stop it")


def _is_left(partial: str, *, can_go_on: bool) -> UsageError:
    if can_go_on:
        return UsageError(f"`{partial}` is left of a run that did not end", hint=ways_on(partial))
    return UsageError(
        f"`{partial}` is in the way, and nothing in it says how to go on with it",
        hint=f"if nothing in it is needed, remove it with `{removal(partial)}`",
    )


def removal(partial: str) -> str:
    """The command that removes it."""
    return f"rm -r {quote(partial)}"


def ways_on(partial: str) -> str:
    """What can be done with a folder that a run left."""
    return f"go on with the same command and --resume, or remove it with `{removal(partial)}`"


def check_files(partial: str, names: Collection[str]) -> None:
    """Refuses what is not a file of this run: it would be published with the result, or written through.

    Raises:
        UsageError: there is such a thing.
    """
    if found := foreign(partial, names):
        raise UsageError(
            f"`{partial}` holds what this run does not write: {listed(found, 5)}",
            hint="move it away, then go on with the same command and --resume",
        )


def foreign(partial: str, names: Collection[str]) -> list[str]:
    """What is in the folder besides the files of these names, links among them; in words."""
    names = set(names)
    folders = {above for name in names for above in _above(name)}
    return list(_foreign(partial, "", names, folders))


def _above(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _foreign(partial: str, inside: str, names: set[str], folders: set[str]) -> Iterator[str]:
    with os.scandir(os.path.join(partial, inside)) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = os.path.join(inside, entry.name)
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if name in folders:
                yield from _foreign(partial, name, names, folders)
            else:
                yield f"`{name}/`"
        elif name not in names:
            yield f"`{name}`"
        elif not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            yield f"`{name}` (a link, or no ordinary file)"
