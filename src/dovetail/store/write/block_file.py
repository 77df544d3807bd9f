"""A new file, written from front to back in large blocks by a thread of its own.

Big files go past the page cache (O_DIRECT): on gigabytes that is as fast as the disk, leaves the
machine's cache alone and has nothing left to flush at the end (docs/decisions/0008-writing.md has the
measurements). Where a file system refuses it, and for small files, writing is ordinary. A file that need
not be on the disk in the end goes through the cache, and the system moves what is copied (sendfile).
"""

import errno
import mmap
import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import BinaryIO, NamedTuple

from dovetail.store.source import LocalSource
from dovetail.store.write.tensor_data import Copied

BLOCK = 4 << 20
_NUM_BLOCKS = 4
_DIRECT_FROM = 64 << 20
_PAGE = 4096
# Through the page cache, large writes were many times slower than small ones in one measurement (0008).
_CACHED_STEP = 128 << 10

# What the system moves: not so little that asking costs more than copying, and not too far ahead of it.
_MOVED_FROM = 64 << 10
_NUM_MOVES = 32
_CANNOT_MOVE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)

Call = Callable[[], None]


class _Written(NamedTuple):
    """A block on its way to an offset of the file."""

    block: mmap.mmap
    offset: int
    length: int


class _Moved(NamedTuple):
    """Bytes of another file on their way to an offset of this one."""

    source: LocalSource
    begin: int
    offset: int
    length: int


_Job = _Written | _Moved | Call | None


class BlockFile:
    """Takes bytes in order, as a binary file does. `expected` is about how many there will be.

    `start` is where the file of an earlier run ends: what is left out before it stays as it is. Without
    `sync` the system writes to the disk when it likes, as after `cp`.

    Raises:
        OSError: the system refuses; what the writing thread meets comes out of a later call.
    """

    def __init__(self, path: str, expected: int, *, start: int = 0, sync: bool = True) -> None:
        self.name = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if start else os.O_EXCL)
        self._fd = os.open(path, flags, 0o644)
        self._direct_fd = _open_direct(path) if sync and expected >= _DIRECT_FROM else -1
        self._sync = sync
        self._position = 0
        self._base = start // BLOCK * BLOCK
        if self._base:
            os.ftruncate(self._fd, self._base)  # what comes after it may be anything
        self._fill = 0
        self._end_of_data = 0  # in the block; what comes after it up to `_fill` was left out
        self._calls: list[Call] = []
        self._error: BaseException | None = None
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._moves = Semaphore(_NUM_MOVES)
        for _ in range(_NUM_BLOCKS):
            self._free.put(mmap.mmap(-1, BLOCK))
        self._block = self._free.get()
        self._thread = Thread(target=self._work, name=f"write {path}", daemon=True)
        self._thread.start()

    @property
    def is_direct(self) -> bool:
        """Whether the page cache is passed by."""
        return self._direct_fd >= 0

    def tell(self) -> int:
        """How many bytes were given."""
        return self._position

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Takes the next bytes."""
        view = memoryview(data).cast("B")
        size = len(view)
        if in_place := min(size, max(0, self._base - self._position)):
            self._check()
            _write_all(self._fd, view[:in_place], self._position)
            self._position += in_place
            view = view[in_place:]
        while view:
            count = min(len(view), BLOCK - self._fill)
            self._zero_up_to(self._fill)
            self._block[self._fill : self._fill + count] = view[:count]
            self._end_of_data = self._fill + count
            self._advance(count)
            view = view[count:]
        return size

    def copy(self, piece: Copied) -> None:
        """Takes the next bytes from another file.

        The system moves them only through the page cache, so not where they must be on the disk.
        """
        length = len(piece.data)
        if self._sync or length < _MOVED_FROM or self._position < self._base:
            self.write(piece.data)
            return
        self._hand_over()
        self._moves.acquire()
        self._jobs.put(_Moved(piece.source, piece.offset, self._position, length))
        self._base = self._position = self._position + length

    def seek(self, count: int, whence: int = os.SEEK_CUR) -> int:
        """Leaves out the next `count` bytes: zeros that take no room, or what is in place already."""
        assert whence == os.SEEK_CUR
        target = self._position + count
        if self._position < self._base:
            self._position = min(target, self._base)
        if (page := target // _PAGE * _PAGE) > self._position:
            self._hand_over()
            self._base = self._position = page
        self._advance(target - self._position)
        return self._position

    def truncate(self, size: int) -> int:
        """Nothing: the file ends where the bytes end."""
        return size

    def flush(self) -> None:
        """Nothing: `close` does what is to be done."""

    def when_written(self, call: Call) -> None:
        """Calls back, in the writing thread, when everything given so far is in the file."""
        self._calls.append(call)

    def close(self) -> None:
        """Writes what is left and, if asked for, makes it durable."""
        self._hand_over()
        self._stop()
        try:
            self._check()
            os.ftruncate(self._fd, self._position)
            if self._sync:
                os.fsync(self._fd)
        finally:
            self._close_files()

    def __enter__(self) -> "BlockFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        self._error = self._error or InterruptedError("writing was given up")
        self._stop()
        self._close_files()

    def _advance(self, count: int) -> None:
        self._fill += count
        self._position += count
        if self._fill == BLOCK:
            self._hand_over()

    def _zero_up_to(self, end: int) -> None:
        """A block is used again: what was left out between data must not be what it held before."""
        self._block[self._end_of_data : end] = bytes(end - self._end_of_data)

    def _hand_over(self) -> None:
        self._check()
        if self._end_of_data:
            length = -(-self._end_of_data // _PAGE) * _PAGE
            self._zero_up_to(length)
            self._jobs.put(_Written(self._block, self._base, length))
            self._block = self._free.get()
            self._end_of_data = 0
        if self._fill:
            self._base += BLOCK
            self._fill = 0
        for call in self._calls:
            self._jobs.put(call)
        self._calls = []

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _close_files(self) -> None:
        os.close(self._fd)
        if self._direct_fd >= 0:
            os.close(self._direct_fd)

    def _work(self) -> None:
        """The writing thread. After an error it goes on taking blocks, so that the giver never waits."""
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    self._do(job)
            except BaseException as error:  # noqa: BLE001 - raised again in the giving thread
                self._error = error
            if isinstance(job, _Written):
                self._free.put(job.block)
            elif isinstance(job, _Moved):
                self._moves.release()

    def _do(self, job: _Written | _Moved | Call) -> None:
        if isinstance(job, _Written):
            self._write(memoryview(job.block)[: job.length], job.offset)
        elif isinstance(job, _Moved):
            self._move(job)
        else:
            job()

    def _move(self, job: _Moved) -> None:
        source, begin, offset, length = job
        os.lseek(self._fd, offset, os.SEEK_SET)
        while length and (count := _send(source, begin, length, self._fd)):
            begin, offset, length = begin + count, offset + count, length - count
        if length:  # the system moves nothing here, or the source has become shorter, which is said here
            _write_all(self._fd, memoryview(source.exactly(begin, length, "data")), offset)

    def _write(self, view: memoryview, offset: int) -> None:
        if self._direct_fd >= 0:
            count = _write_directly(self._direct_fd, view, offset)
            view, offset = view[count:], offset + count
        _write_all(self._fd, view, offset)


def put(file: BinaryIO | BlockFile, data: bytes | memoryview | Copied) -> None:
    """Writes the next bytes of a file, whichever kind of file it is."""
    if not isinstance(data, Copied):
        file.write(data)
    elif isinstance(file, BlockFile):
        file.copy(data)
    else:
        file.write(data.data)


def _write_directly(descriptor: int, view: memoryview, offset: int) -> int:
    """Writes what goes past the page cache; gives the number of bytes, the rest is for the cache.

    EINVAL says that a file system wants another alignment, or that a limit cuts through the block.
    """
    try:
        return os.pwrite(descriptor, view, offset)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return 0
        raise


def _send(source: LocalSource, begin: int, length: int, target: int) -> int:
    """How many bytes the system moved, 0 if it cannot between these files."""
    try:
        return source.send(begin, length, target)
    except OSError as error:
        if error.errno in _CANNOT_MOVE:
            return 0
        raise


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(descriptor, view[:_CACHED_STEP], offset)
        view, offset = view[count:], offset + count


def _open_direct(path: str) -> int:
    """A second descriptor that passes the page cache by, -1 where the file system has none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return -1
