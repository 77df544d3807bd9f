"""Claim: a new file is written and hashed faster than `cp` copies it, and the hash is not what it waits for.

4.42 GB from a warm file to a new one on the same disk, durable at the end unless said otherwise.
"""

import hashlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from dovetail.store.source import LocalSource
from dovetail.store.write.block_file import BLOCK, BlockFile
from dovetail.store.write.tensor_data import Copied
from measure import show, sized, timed, where

SIZE = sized(4_417_971_200, 10_000_000)
READ = 8 << 20
MOVED = 1 << 20


def write(
    source: Path, out: Path, update: Callable[[memoryview], object] | None, *, expected: int = SIZE
) -> None:
    """Reads in blocks, hashes them in this thread, and hands them to the one that writes."""
    buffer = memoryview(bytearray(READ))
    with source.open("rb", buffering=0) as file, BlockFile(str(out), expected) as target:
        while count := file.readinto(buffer):
            if update is not None:
                update(buffer[:count])
            target.write(buffer[:count])


def move_unsynced(source: Path, out: Path) -> None:
    """Hashes what it reads, and has the system move it meanwhile; nothing waits for the disk."""
    digest, buffer = blake3(), memoryview(bytearray(MOVED))
    file = LocalSource(str(source))
    with BlockFile(str(out), SIZE, sync=False) as target:
        for offset in range(0, file.size, MOVED):
            piece = buffer[: file.read_into(offset, buffer)]
            digest.update(piece)
            target.copy(Copied(piece, file, offset))
    file.close()


def copy(source: Path, out: Path) -> None:
    subprocess.run(["cp", source, out], check=True)


def copy_durably(source: Path, out: Path) -> None:
    copy(source, out)
    subprocess.run(["sync", out], check=True)


def move(source: Path, out: Path, step: Callable[[int, int], int]) -> None:
    """Lets the kernel copy from one file to the other, and makes it durable; `step` moves some bytes."""
    with source.open("rb", buffering=0) as file, out.open("wb", buffering=0) as target:
        while step(file.fileno(), target.fileno()):
            pass
        os.fsync(target.fileno())


def read_and_write(source: int, target: int, size: int) -> int:
    return os.write(target, os.read(source, size))


def main() -> None:
    print(where("blake3"))
    ways: dict[str, Callable[[Path, Path], None]] = {
        "cp, not durable": copy,
        "BlockFile and BLAKE3, not durable": move_unsynced,
        "cp, then fsync": copy_durably,
        "copy_file_range, fsync": lambda source, out: move(
            source, out, lambda a, b: os.copy_file_range(a, b, BLOCK)
        ),
        "sendfile, fsync": lambda source, out: move(source, out, lambda a, b: os.sendfile(b, a, None, BLOCK)),
        "write of 4 MiB, fsync": lambda source, out: move(
            source, out, lambda a, b: read_and_write(a, b, BLOCK)
        ),
        "write of 128 KiB, fsync": lambda source, out: move(
            source, out, lambda a, b: read_and_write(a, b, 128 << 10)
        ),
        "BlockFile": lambda source, out: write(source, out, None),
        "BlockFile through the page cache": lambda source, out: write(source, out, None, expected=0),
        "BlockFile and BLAKE3": lambda source, out: write(source, out, blake3().update),
        "BlockFile and SHA-256": lambda source, out: write(source, out, hashlib.sha256().update),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as place:
        source, out = Path(place) / "source", Path(place) / "out"
        block = os.urandom(SIZE // 100)
        with source.open("wb") as file:
            for _ in range(100):
                file.write(block)
        for _ in range(sized(3, 1)):
            for name, way in ways.items():
                begin = time.perf_counter()
                way(source, out)
                taken[name].append(time.perf_counter() - begin)
                out.unlink()
                os.sync()
    show(
        f"{SIZE / 1e9:.2f} GB to a new file, three runs taking turns",
        ("how", "median", "best", "worst", "GB/s"),
        [
            (
                name,
                f"{median:.2f} s",
                f"{min(runs):.2f} s",
                f"{max(runs):.2f} s",
                f"{SIZE / median / 1e9:.1f}",
            )
            for name, runs in taken.items()
            if (median := statistics.median(runs))
        ],
    )
    data = os.urandom(sized(256, 1) << 20)
    rows = [
        (name, f"{len(data) / timed(lambda new=new: new(data).digest()) / 1e9:.1f} GB/s")  # type: ignore[misc]
        for name, new in (("BLAKE3", blake3), ("SHA-256", hashlib.sha256))
    ]
    show("hashing of 256 MiB in memory, one thread", ("hash", "speed"), rows)


if __name__ == "__main__":
    main()
