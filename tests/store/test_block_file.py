"""Files written in blocks: the bytes are those given, and what is left out takes no room."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import TempPathFactory

from dovetail.store.block_file import BLOCK, BlockFile

BIG = 80 << 20  # from 64 MB on the page cache is passed by, where the file system can
LENGTHS = st.sampled_from((1, 7, 4095, 4096, 4097, 70_001, BLOCK - 1, BLOCK, BLOCK + 4097))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), LENGTHS), max_size=12), expected=st.sampled_from((0, BIG)))
def test_what_is_written_and_left_out_stands_where_it_belongs(
    tmp_path_factory: TempPathFactory, steps: list[tuple[bool, int]], expected: int
) -> None:
    path = tmp_path_factory.mktemp("block") / "file"
    whole = bytearray()
    with BlockFile(str(path), expected) as file:
        for number, (is_data, length) in enumerate(steps, 1):
            data = bytes([number]) * length
            if is_data:
                file.write(data)
            else:
                file.seek(length)
            whole += data if is_data else bytes(length)
            assert file.tell() == len(whole)
    assert path.read_bytes() == whole


def test_what_is_left_out_takes_no_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with BlockFile(str(path), BIG) as file:
        for _ in range(20):
            file.write(b"head")
            file.seek(BLOCK - 1_000)
    assert path.stat().st_size == 20 * (BLOCK - 996)
    assert allocated(path) <= 20 * 2 * 4096


def test_what_is_written_takes_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with BlockFile(str(path), BIG) as file:
        file.write(bytes(BLOCK))
    assert allocated(path) >= BLOCK


def allocated(path: Path) -> int:
    """Bytes that a file takes on the disk."""
    return os.stat(path).st_blocks * 512
