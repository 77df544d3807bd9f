"""Folders renamed without ever replacing what somebody put in the way.

Linux has both steps as one call (renameat2(2)). Where a system or a file system has not, an ordinary rename
of a folder is as safe: it replaces an empty folder and refuses all else (rename(2), ENOTEMPTY, ENOTDIR).
"""

import ctypes
import errno
import os
import re

_HERE, _NO_REPLACE, _EXCHANGE = -100, 1, 2  # AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_LACKING = (errno.ENOSYS, errno.EINVAL)
_MOUNTS = "/proc/self/mountinfo"


def rename_new(folder: str, place: str) -> bool:
    """Gives a folder another name; False if something has that name, even an empty folder.

    Raises:
        OSError: the system refuses.
    """
    if (trouble := _rename(folder, place, _NO_REPLACE)) in (0, *_IN_THE_WAY):
        return trouble == 0
    if trouble not in _LACKING:
        raise OSError(trouble, os.strerror(trouble), place)
    return not os.path.lexists(place) and rename_over_empty(folder, place)


def rename_over_empty(folder: str, place: str) -> bool:
    """Gives a folder the name of an empty one, which goes; False if something is in it or it is no folder.

    Raises:
        OSError: the system refuses.
    """
    try:
        os.rename(folder, place)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            return False
        raise
    return True


def exchange(one: str, other: str) -> bool:
    """Two folders take each other's name in one step; False where the system cannot."""
    return _rename(one, other, _EXCHANGE) == 0


def _rename(one: str, other: str, how: int) -> int:
    """The number of the error of renameat2, 0 if there is none."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return errno.ENOSYS
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), how) == 0:
        return 0
    return ctypes.get_errno()


def is_mount_point(path: str) -> bool:
    """Whether a file system, or a part of one, is mounted at this very path: it cannot be renamed over."""
    return os.path.ismount(path) or path in _mount_points()


def _mount_points() -> set[str]:
    """Where something is mounted, on Linux: `ismount` does not see a folder of the same file system."""
    try:
        with open(_MOUNTS, "rb") as file:
            paths = [line.split()[4] for line in file if len(line.split()) > 4]
    except OSError:
        return set()
    return {
        os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), one)) for one in paths
    }
