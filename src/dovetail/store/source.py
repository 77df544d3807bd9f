"""Where bytes come from: a local file here, a remote one in `remote.py`; readers see no difference."""

import errno
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator

from dovetail.errors import FormatError, MissingError, UsageError

# What Windows has not, and what macOS has not: looked up here, so that importing works everywhere.
_READ_INTO = getattr(os, "preadv", None)
_ADVISE = getattr(os, "posix_fadvise", None)
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class ByteSource(ABC):
    """Random access to the bytes of one file."""

    name: str
    size: int

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only at the end of the file."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the file."""

    def exactly(self, offset: int, length: int, what: str) -> bytes:
        """Exactly `length` bytes.

        Raises:
            FormatError: the file ends before.
        """
        data = self.read_at(offset, length) if length <= self.size - offset else b""
        if len(data) != length:
            raise FormatError(
                f"the file ends inside its {what}",
                file=self.name,
                expected=f"{length:,} bytes from offset {offset:,}",
                found=f"a file of {self.size:,} bytes",
                hint="the download or copy was cut off; fetch the file again",
            )
        return data


def access_hint(error: OSError) -> str | None:
    """What to do where one may not read."""
    if isinstance(error, PermissionError):
        return "`ls -l` shows who may read it; ask its owner, or copy it as somebody who may"
    return None


class LocalSource(ByteSource):
    """A file on this machine; `allocated` bytes of it are on the disk, `changed` is its time in ns.

    Its status has a time of its own, which nobody can put back: a rewrite shows there, but so do a `chmod`
    and a new hard link, so `is_only_touched` is a reason to compare, not to believe.

    Raises:
        MissingError: there is no such file, or it cannot be opened.
        FormatError: it is a folder, a pipe or a device.
        UsageError: this is a system on which dovetail cannot read.
    """

    def __init__(self, path: str, *, name: str | None = None) -> None:
        self.path = path
        self.name = name or path
        if _READ_INTO is None:
            raise UsageError(
                f"dovetail cannot read files on {sys.platform}", hint="run it on Linux, in WSL, or on macOS"
            )
        try:
            # NONBLOCK, because opening a pipe waits for whoever writes into it
            self._fd = os.open(path, _FLAGS)
        except OSError as error:
            raise MissingError(
                f"cannot open the file: {error.strerror}", file=self.name, hint=access_hint(error)
            ) from error
        if not stat.S_ISREG(mode := os.fstat(self._fd).st_mode):
            self.close()
            raise FormatError("this is no ordinary file", file=self.name, found=_kind(mode))
        status = os.fstat(self._fd)
        self.size = status.st_size
        self.allocated = status.st_blocks * 512
        self.changed = status.st_mtime_ns
        self._touched = status.st_ctime_ns
        self._has_holes = self.allocated < self.size
        self._fetched = 0

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills the buffer from `offset`; gives the number of bytes read."""
        assert _READ_INTO is not None
        count: int = _READ_INTO(self._fd, [buffer], offset)
        return count

    def send(self, offset: int, length: int, target: int) -> int:
        """Has the system write bytes to another open file, from its position on; gives how many it did."""
        return os.sendfile(target, self._fd, offset, length)

    def fetch(self, offset: int, length: int) -> None:
        """Begins to read bytes that will be wanted soon, without waiting for them; a good many at a time."""
        if _ADVISE is None:
            return
        end = offset + length
        is_far = not end - 2 * length <= self._fetched <= end
        begin = offset if is_far else self._fetched
        if end - begin >= length // 4 and begin < self.size:
            _ADVISE(self._fd, begin, end - begin, os.POSIX_FADV_WILLNEED)
            self._fetched = end

    def extents(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The runs between two offsets as (begin, end, whether there is data rather than a hole)."""
        while begin < end:
            data = self._next(begin, os.SEEK_DATA, end) if self._has_holes else begin
            if data > begin:
                yield begin, data, False
            stop = self._next(data, os.SEEK_HOLE, end) if self._has_holes and data < end else end
            if stop > data:
                yield data, stop, True
            begin = max(data, stop)

    def _next(self, offset: int, whence: int, end: int) -> int:
        try:
            return min(os.lseek(self._fd, offset, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data until the end of the file
                return end
            raise

    def is_changed(self) -> bool:
        """Whether the file was written to, touched or replaced since it was opened."""
        return self._is_other() or os.fstat(self._fd).st_ctime_ns != self._touched

    def is_only_touched(self) -> bool:
        """Whether nothing but the time of its status is another: its values may be those that were read."""
        return not self._is_other() and os.fstat(self._fd).st_ctime_ns != self._touched

    def forget_touch(self) -> None:
        """Takes the status as it is now for that of the beginning: whoever says so compares all values."""
        self._touched = os.fstat(self._fd).st_ctime_ns

    def _is_other(self) -> bool:
        try:
            now = os.stat(self.path)
        except OSError:
            return True
        mine = os.fstat(self._fd)
        is_same = (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)
        return not is_same or (mine.st_size, mine.st_mtime_ns) != (self.size, self.changed)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
