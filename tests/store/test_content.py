"""Hashes of content, and whether two tensors are the same."""

from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file

import dovetail
from dovetail.errors import CheckpointError
from dovetail.store.content import are_equal, content_hash, hash_of
from files import write_listing


def test_the_hash_is_blake3() -> None:
    """https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json, input lengths 0, 1."""
    assert hash_of([]) == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert hash_of([b"\0"]) == "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_the_hash_does_not_depend_on_the_pieces() -> None:
    data = bytes(range(256)) * 9
    whole = blake3(data).hexdigest()
    for size in (1, 7, 64, 1024, len(data)):
        assert hash_of(memoryview(data)[at : at + size] for at in range(0, len(data), size)) == whole
    digest = content_hash()
    digest.update(data)
    assert digest.hexdigest() == whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Tensors that are equal and tensors that differ in one thing each, larger than one block."""
    base = torch.arange(600_000.0)
    late = base.clone()
    late[-1] += 1
    tensors = {
        "base": base,
        "copy": base.clone(),
        "late": late,
        "shape": base.clone().reshape(600, 1000),
        "dtype": base.view(torch.int32).clone(),
        "zero": torch.zeros(3),
        "minus": -torch.zeros(3),
        "nan": torch.full((3,), torch.nan),
        "nan too": torch.full((3,), torch.nan),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("base", "base", True),
        ("base", "copy", True),
        ("base", "late", False),
        ("base", "shape", False),
        ("base", "dtype", False),
        ("zero", "minus", False),
        ("nan", "nan too", True),
    ],
)
def test_equal_means_dtype_shape_and_every_byte(a: str, b: str, expected: bool, path: Path) -> None:
    with dovetail.open_checkpoint(path) as store:
        assert are_equal(store, a, b) is expected
        assert are_equal(store, b, a) is expected


def test_two_names_of_one_storage_are_equal_without_reading(tmp_path: Path) -> None:
    shared = torch.arange(5.0)
    torch.save({"a": shared, "b": shared, "c": shared.clone()}, tmp_path / "x.pth")
    with dovetail.open_checkpoint(tmp_path / "x.pth") as store:
        (tmp_path / "x.pth").write_bytes(b"")  # nothing is left to read
        assert are_equal(store, "a", "b")
        with pytest.raises(CheckpointError):
            are_equal(store, "a", "c")


def test_strided_tensors_are_compared_by_their_elements(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    torch.save(
        {"turned": matrix.T, "plain": matrix.T.contiguous(), "other": matrix.reshape(3, 2)},
        tmp_path / "x.pth",
    )
    with dovetail.open_checkpoint(tmp_path / "x.pth") as store:
        assert are_equal(store, "turned", "plain")
        assert not are_equal(store, "turned", "other")


def test_a_header_has_no_content(tmp_path: Path) -> None:
    path = write_listing(tmp_path / "x.json", {"a": ["F32", [3]], "b": ["F32", [3]]})
    with dovetail.open_checkpoint(path) as store, pytest.raises(CheckpointError, match="holds no values"):
        are_equal(store, "a", "b")
