"""Files written block by block: the same bytes as an ordinary file, durable, errors not lost."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import FormatError
from dovetail.store.source import LocalSource
from dovetail.store.write import block_file
from dovetail.store.write.block_file import BLOCK, BlockFile
from dovetail.store.write.tensor_data import Copied
from files import open_under

DIRECT = 64 << 20
MIB = 1 << 20


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes without a period that a block or a page divides."""
    unit = bytes((i * 131 + seed) % 251 for i in range(251 * 37))
    return (unit * (size // len(unit) + 1))[:size]


def allocated(path: Path) -> int:
    """The bytes that a file takes on the disk."""
    return path.stat().st_blocks * 512


def has_direct(folder: Path) -> bool:
    """Whether the file system lets O_DIRECT by."""
    probe = folder / "probe"
    probe.touch()
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_what_is_written_is_there(size: int, tmp_path: Path) -> None:
    data = pattern(size)
    with BlockFile(str(tmp_path / "x"), size) as file:
        assert file.write(data) == size
        assert file.tell() == size
        assert not file.is_direct
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("piece", [1, 4096, 100_003, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_pieces_of_any_size_make_the_same_file(piece: int, tmp_path: Path) -> None:
    data = pattern(2 * BLOCK + 12_345 if piece > 1 else 9_999)
    with BlockFile(str(tmp_path / "x"), len(data)) as file:
        for start in range(0, len(data), piece):
            file.write(memoryview(data)[start : start + piece])
    assert (tmp_path / "x").read_bytes() == data


def test_the_giver_may_use_its_buffer_again(tmp_path: Path) -> None:
    buffer = bytearray(BLOCK // 2)
    with BlockFile(str(tmp_path / "x"), 0) as file:
        for i in range(20):
            buffer[:] = bytes([i]) * len(buffer)
            file.write(buffer)
    written = (tmp_path / "x").read_bytes()
    assert [set(written[i * len(buffer) : (i + 1) * len(buffer)]) for i in range(20)] == [
        {i} for i in range(20)
    ]


def test_items_wider_than_a_byte_are_taken_as_bytes(tmp_path: Path) -> None:
    with BlockFile(str(tmp_path / "x"), 8) as file:
        assert file.write(memoryview(bytearray(range(8))).cast("I")) == 8
    assert (tmp_path / "x").read_bytes() == bytes(range(8))


def test_large_files_pass_the_page_cache_by(tmp_path: Path) -> None:
    if not has_direct(tmp_path):
        pytest.skip("no O_DIRECT here")
    data = pattern(DIRECT + 4097)
    with BlockFile(str(tmp_path / "x"), len(data)) as file:
        assert file.is_direct
        for start in range(0, len(data), 3 * MIB + 5):
            file.write(data[start : start + 3 * MIB + 5])
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("refused", ["open", "flag"])
def test_where_direct_writing_is_refused_writing_is_ordinary(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tmpfs did for long (EINVAL), and macOS does (no such flag)."""
    really = os.open

    def no_direct(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return really(path, flags, *rest)

    if refused == "open":
        monkeypatch.setattr(os, "open", no_direct)
    else:
        monkeypatch.delattr(os, "O_DIRECT")
    with BlockFile(str(tmp_path / "x"), DIRECT) as file:
        assert not file.is_direct
        file.write(b"abc")
    assert (tmp_path / "x").read_bytes() == b"abc"


@pytest.mark.parametrize("hole", [1, 5000, BLOCK - 3, BLOCK, 3 * BLOCK + 777, 40 * BLOCK])
@pytest.mark.parametrize("expected", [0, DIRECT])
def test_what_is_left_out_is_zeros(hole: int, expected: int, tmp_path: Path) -> None:
    with BlockFile(str(tmp_path / "x"), expected) as file:
        file.write(b"head")
        assert file.seek(hole) == file.tell() == 4 + hole
        file.write(b"tail")
    assert (tmp_path / "x").read_bytes() == b"head" + bytes(hole) + b"tail"


def test_a_large_hole_takes_no_room(tmp_path: Path) -> None:
    with BlockFile(str(tmp_path / "x"), 1 << 40) as file:
        file.write(b"head")
        file.seek(1 << 36)
        file.write(b"tail")
        file.seek(1 << 36)
    path = tmp_path / "x"
    assert path.stat().st_size == 8 + (2 << 36)
    assert allocated(path) <= 4 * BLOCK
    with path.open("rb") as whole:
        whole.seek(4 + (1 << 36))
        assert whole.read(5) == b"tail\0"


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3 * BLOCK) | st.sampled_from([0, 1, 4096, BLOCK])), max_size=8
    )
)
def test_any_row_of_pieces_and_holes_is_what_a_plain_file_would_be(
    tmp_path: Path, steps: list[tuple[bool, int]]
) -> None:
    path, model = tmp_path / "x", bytearray()
    with BlockFile(str(path), 0) as file:
        for i, (is_hole, size) in enumerate(steps):
            data = bytes(size) if is_hole else pattern(size, seed=i)
            if is_hole:
                file.seek(size)
            else:
                file.write(data)
            model += data
            assert file.tell() == len(model)
    assert path.read_bytes() == model
    path.unlink()


# -- bytes of another file


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> LocalSource:
    path = tmp_path_factory.mktemp("other") / "other"
    path.write_bytes(pattern(3 * BLOCK, seed=5))
    return LocalSource(str(path))


def copied(source: LocalSource, offset: int, length: int) -> Copied:
    return Copied(memoryview(source.exactly(offset, length, "piece")), source, offset)


@given(
    sync=st.booleans(),
    start=st.sampled_from([0, 0, BLOCK, 2 * BLOCK + 17]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["hole", "bytes", "copy", "copy"]),
            st.integers(0, 2 * BLOCK) | st.sampled_from([0, 1, 4096, 64 << 10, 1 << 20, BLOCK]),
        ),
        max_size=8,
    ),
)
def test_what_lies_in_another_file_is_written_like_anything_else(
    tmp_path: Path, other: LocalSource, sync: bool, start: int, steps: list[tuple[str, int]]
) -> None:
    """Behind the `start` of an earlier run too, whose bytes stay where nothing is written."""
    path, model, calls = tmp_path / "x", bytearray(), []
    there = pattern(start, seed=9)
    path.write_bytes(there)
    there = there[: start // BLOCK * BLOCK]
    with BlockFile(str(path), 0, start=start, sync=sync) if start else _new(path, sync) as file:
        for i, (kind, size) in enumerate(steps):
            begin, data = len(model), pattern(size, seed=i)
            if kind == "hole":
                file.seek(size)
                data = (there[begin : begin + size] + bytes(size))[:size]
            elif kind == "bytes":
                file.write(data)
            else:
                data = other.exactly(i * 1237, size, "piece")
                file.copy(copied(other, i * 1237, size))
            model += data
            file.when_written(lambda i=i: calls.append(i))  # type: ignore[misc]
            assert file.tell() == len(model)
    assert path.read_bytes() == model
    assert calls == [*range(len(steps))]
    path.unlink()


def _new(path: Path, sync: bool) -> BlockFile:
    path.unlink()
    return BlockFile(str(path), 0, sync=sync)


def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes the system moved in each call from now on."""
    really, counts = os.sendfile, []

    def send(*words: int) -> int:
        counts.append(really(*words))
        return counts[-1]

    monkeypatch.setattr(os, "sendfile", send)
    return counts


def test_the_system_moves_what_need_not_be_on_the_disk(
    tmp_path: Path, other: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = moved(monkeypatch)
    for sync, expected in ((False, 2 * MIB), (True, 0)):
        with BlockFile(str(tmp_path / f"{sync}"), DIRECT, sync=sync) as file:
            file.copy(copied(other, 7, MIB))
            file.copy(copied(other, 7, MIB))
        assert sum(counts) == expected
        assert not (file.is_direct and not sync)
        counts.clear()
    assert (tmp_path / "True").read_bytes() == (tmp_path / "False").read_bytes()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_system_cannot_move_bytes_they_are_written(
    number: int, tmp_path: Path, other: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", refuse)
    with BlockFile(str(tmp_path / "x"), 0, sync=False) as file:
        file.write(b"head")
        for _ in range(100):  # more than may be under way
            file.copy(copied(other, 3, MIB // 4))
    assert (tmp_path / "x").read_bytes() == b"head" + 100 * other.exactly(3, MIB // 4, "piece")


def test_bytes_move_between_file_systems(other: LocalSource) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == Path(other.path).stat().st_dev:
        pytest.skip("no second file system here")
    path = shm / f"dovetail-{os.getpid()}"
    try:
        with BlockFile(str(path), 0, sync=False) as file:
            file.copy(copied(other, 5, MIB))
        assert path.read_bytes() == other.exactly(5, MIB, "piece")
    finally:
        path.unlink(missing_ok=True)


def test_a_source_that_became_shorter_is_said_not_filled_up(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(MIB))
    source = LocalSource(str(tmp_path / "other"))
    piece = copied(source, 0, MIB)
    os.truncate(tmp_path / "other", 1000)
    with (
        pytest.raises(FormatError, match="the file ends inside"),
        BlockFile(str(tmp_path / "x"), 0, sync=False) as file,
    ):
        file.copy(piece)


def test_a_full_disk_ends_the_moving_and_nobody_waits(
    tmp_path: Path, other: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "sendfile", full)
    piece = copied(other, 0, MIB)

    def give() -> None:
        with BlockFile(str(tmp_path / "x"), 0, sync=False) as file:
            for _ in range(1000):
                file.copy(piece)

    with pytest.raises(OSError, match="No space left"):
        give()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write ")]


# -- a file that an earlier run began


@pytest.mark.parametrize("start", [BLOCK, 2 * BLOCK, 2 * BLOCK + 17])
@pytest.mark.parametrize("skipped", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK])
def test_writing_goes_on_where_it_was_broken_off(tmp_path: Path, start: int, skipped: int) -> None:
    """Of what is in place, what is left out stays and what is given is written again."""
    path, data = tmp_path / "x", pattern(3 * BLOCK + 321)
    there = pattern(start, seed=9)
    path.write_bytes(there)
    skipped = min(skipped, start // BLOCK * BLOCK)
    with BlockFile(str(path), 0, start=start) as file:
        file.seek(skipped)
        for begin in range(skipped, len(data), 1_234_567):
            file.write(data[begin : begin + 1_234_567])
        assert file.tell() == len(data)
    assert path.read_bytes() == there[:skipped] + data[skipped:]


def test_a_hole_behind_the_start_is_a_hole_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 3 * BLOCK)
    with BlockFile(str(path), 0, start=BLOCK) as file:
        file.seek(2 * BLOCK)
        file.write(b"end")
    assert path.read_bytes() == b"x" * BLOCK + bytes(BLOCK) + b"end"


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        BlockFile(str(tmp_path / "x"), 10)
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_longer_old_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(3 * BLOCK))
    with BlockFile(str(tmp_path / "x"), 10, start=BLOCK) as file:
        file.seek(BLOCK)
        file.write(b"end")
    assert (tmp_path / "x").stat().st_size == BLOCK + 3


def test_calls_come_back_in_order_after_what_was_given_before_them(tmp_path: Path) -> None:
    """Each finds on the disk all that was written before it was asked for."""
    path, seen = tmp_path / "x", []
    with BlockFile(str(path), 0) as file:
        for i in range(12):
            file.write(pattern(BLOCK // 3 * 2, seed=i))
            end = file.tell()
            file.when_written(
                lambda i=i, end=end: seen.append((i, end, path.stat().st_size, threading.current_thread()))
            )  # type: ignore[misc]
    assert [i for i, *_ in seen] == list(range(12))
    assert all(size >= end for _, end, size, _ in seen)
    assert {thread.name for *_, thread in seen} == {f"write {path}"}


@pytest.mark.parametrize("where", ["write", "call"])
def test_what_fails_in_the_writing_thread_comes_out_of_a_later_call(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls: list[int] = []

    def give() -> None:
        with BlockFile(str(tmp_path / "x"), 0) as file:
            if where == "write":
                monkeypatch.setattr(os, "pwrite", full)
            else:
                file.when_written(full)
            for i in range(1000):
                file.write(bytes(BLOCK))
                file.when_written(lambda i=i: calls.append(i))  # type: ignore[misc]

    with pytest.raises(OSError, match="No space left") as error:
        give()
    assert error.value.errno == errno.ENOSPC
    assert len(calls) <= 1  # nothing is said to be written after that
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write ")]


def test_an_error_at_the_very_end_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = BlockFile(str(tmp_path / "x"), 0)
    file.write(b"few")
    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(OSError, match="Input/output error"):
        file.close()


def test_giving_up_stops_the_thread_and_closes_the_file(tmp_path: Path) -> None:
    def give() -> None:
        with BlockFile(str(tmp_path / "x"), DIRECT) as file:
            file.write(bytes(3 * BLOCK))
            raise KeyError("the giver fails")

    with pytest.raises(KeyError):
        give()
    assert not open_under(tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write ")]


def test_a_device_that_is_full_says_so() -> None:
    """/dev/full refuses every byte."""
    with pytest.raises(OSError, match="No space left"), BlockFile("/dev/full", 0, start=1) as file:
        file.write(b"x")


def test_a_short_write_goes_on_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal or a quota may cut a write; then what is left is no longer aligned for O_DIRECT."""
    really, descriptors = os.pwrite, []
    plain = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)

    def short(descriptor: int, data: memoryview, offset: int) -> int:
        descriptors.append(descriptor)
        return really(plain, data[: max(1, len(data) // 3)], offset)

    data = pattern(2 * BLOCK + 99)
    monkeypatch.setattr(os, "pwrite", short)
    with BlockFile(str(tmp_path / "x"), DIRECT, start=1) as file:
        file.write(data)
    os.close(plain)
    assert (tmp_path / "x").read_bytes() == data
    assert len(descriptors) > 10
    assert descriptors[1] == descriptors[2] != plain
    assert (descriptors[0] != descriptors[1]) == file.is_direct


def test_memory_is_a_few_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far ahead the giver is, it waits for one of the blocks."""
    really, held = os.pwrite, threading.Event()

    def slow(descriptor: int, data: memoryview, offset: int) -> int:
        held.wait()
        return really(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    given: list[int] = []

    def give() -> None:
        with BlockFile(str(tmp_path / "x"), 0) as file:
            for i in range(20):
                file.write(bytes(BLOCK))
                given.append(i)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.5)
    assert giver.is_alive()
    assert len(given) < block_file._NUM_BLOCKS
    held.set()
    giver.join()
    assert len(given) == 20
