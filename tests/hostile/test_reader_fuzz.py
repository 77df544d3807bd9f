"""Mutated files of every kind that is opened: read, or refused with an error of ours. Seeds are fixed."""

import json
import random
from pathlib import Path

import pytest

from dovetail.errors import DovetailError
from dovetail.store.open import open_checkpoint
from dovetail.store.torchfile.write import write_torch
from dovetail.store.write.tensor_data import TensorData
from files import safetensors_bytes

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123\n"
ODD = [
    "²",
    "٣",
    "9" * 5000,
    "-1",
    "1e999",
    "\ud800",
    "\x00",
    "[" * 3000,
    '"',
    "true",
    "null",
    "{}",
    "\n",
    "xn--",
]
NUM_SEEDS = 200


@pytest.mark.parametrize("size", ["²", "٣", "9" * 5000, "", "-1", "1.5", "x"])
def test_a_pointer_of_an_odd_size_is_a_pointer(size: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(POINTER.replace(b"123", size.encode()))
    message = _message(path)
    assert message.startswith("this is a Git LFS pointer, not the file it stands for\n")
    assert "stands_for" not in message


def _message(path: Path) -> str:
    with pytest.raises(DovetailError) as caught:
        open_checkpoint(str(path))
    return str(caught.value)


def originals(folder: Path) -> dict[str, bytes]:
    tensors = [TensorData("model/a.weight", "F32", (2, 3), [bytes(24)])]
    write_torch(str(folder / "x.pth"), tensors, aliases={}, values={"epoch": 3})
    index = {"metadata": {"total_size": 24}, "weight_map": {"a.0.weight": "model.safetensors"}}
    return {
        "model.safetensors": safetensors_bytes({"a.0.weight": ("F32", (2, 3))}),
        "lit_model.pth": (folder / "x.pth").read_bytes(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "listing.json": json.dumps({"a.0.weight": ["F32", [2, 3]]}).encode(),
        "pointer.bin": POINTER,
    }


def mutated(data: bytes, random_: random.Random) -> bytes:
    """The bytes with a few replaced, lost, doubled, or followed by something odd."""
    for _ in range(random_.randint(1, 3)):
        start = random_.randrange(len(data) + 1)
        end = min(len(data), start + random_.choice([0, 1, 4, 40]))
        odd = random_.choice(ODD).encode("utf-8", "surrogatepass")
        new = random_.choice([odd, random_.randbytes(3), data[start:end] * 2, b""])
        data = data[:start] + new + data[end:]
    return data


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "lit_model.pth", "model.safetensors.index.json", "listing.json", "pointer.bin"],
)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    whole = originals(tmp_path)
    refused = 0
    for seed in range(NUM_SEEDS):
        path = tmp_path / name
        path.write_bytes(mutated(whole[name], random.Random(f"{name} {seed}")))
        try:
            open_checkpoint(str(path)).close()
        except DovetailError:
            refused += 1
    assert refused > NUM_SEEDS // 4
