"""The numbers of `--state` and `--noise`: of a file, of a text, and of what is neither."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from dovetail.cli.act import numbers
from dovetail.errors import UsageError


def test_numbers_of_a_file_and_of_a_text(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(numbers(str(tmp_path / "a.npy")), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(numbers("0.5,-1 2e3"), [0.5, -1, 2000])


def npy(shape: str, kind: str = "<f8") -> bytes:
    """A file that says this shape and has eight bytes."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(8)


def archive() -> bytes:
    found = io.BytesIO()
    np.savez(found, a=np.zeros(3))
    return found.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npy("(1000000000000000,)"),
        npy("(9223372036854775807, 9)"),
        npy("(-1,)"),
        npy("(1,)", "|O"),
        npy("(1,)", "<U2"),
        npy("()")[:40],
        archive(),
        b"",
        b"PK",
    ],
    ids=["huge", "larger", "negative", "objects", "words", "half", "archive", "empty", "odd"],
)
def test_what_is_no_array_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UsageError, match="holds no numbers: "):
        numbers(str(tmp_path / "a.npy"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for name in ("pipe.npy", "folder.npy"):
        with pytest.raises(UsageError, match="holds no numbers: this is no ordinary file"):
            numbers(str(tmp_path / name))
    with (tmp_path / "long.npy").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UsageError, match="too long for what it should be"):
        numbers(str(tmp_path / "long.npy"))
    with pytest.raises(UsageError, match="there is no file"):
        numbers(str(tmp_path / "none.npy"))
    with pytest.raises(UsageError, match="could not convert"):
        numbers("0.1,x")
