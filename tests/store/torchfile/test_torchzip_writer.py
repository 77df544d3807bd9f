"""Files written without torch: what torch.load and our own reader make of them."""

import hashlib
import os
import resource
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.serialization import config

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.dtypes import DTYPES
from dovetail.errors import WriteError
from dovetail.store.source import LocalSource
from dovetail.store.store import Shard
from dovetail.store.torchfile.pickle.pickler import pickle_of
from dovetail.store.torchfile.pickle.unpickle import unpickle
from dovetail.store.torchfile.read import read_torch
from dovetail.store.torchfile.write import crc_of_zeros, write_torch
from dovetail.store.write.tensor_data import TensorData
from sparsefile import qwen2_vl_header

GIB = 1 << 30


def octets(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def data_of(name: str, tensor: torch.Tensor, pieces: int = 2) -> TensorData:
    """A tensor to write, in pieces."""
    raw = octets(tensor)
    size = max(1, -(-len(raw) // pieces))
    dtype = next(dtype.name for dtype in DTYPES.values() if f"torch.{dtype.torch}" == str(tensor.dtype))
    chunks = (raw[start : start + size] for start in range(0, len(raw), size))
    return TensorData(name, dtype, tuple(tensor.shape), chunks)


def read(path: Path) -> Shard:
    return read_torch(LocalSource(str(path)))


TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "small": torch.ones(3, dtype=torch.float8_e4m3fn),
    "unsigned": torch.ones(3, dtype=torch.uint16),
    "flag": torch.tensor([True, False]),
    "wave": torch.tensor([1 + 2j]),
    "last": torch.arange(100),
}


@pytest.fixture
def strict_offsets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch computes where each storage is, and compares that with where it finds it."""
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    with config.patch({"load.calculate_storage_offsets": True}):
        yield


@pytest.mark.usefixtures("strict_offsets")
@pytest.mark.parametrize("is_mapped", [False, True])
def test_torch_loads_what_was_written(tmp_path: Path, is_mapped: bool) -> None:
    path = tmp_path / "x.pth"
    write_torch(str(path), [data_of(name, tensor) for name, tensor in TENSORS.items()])
    loaded = torch.load(path, weights_only=True, mmap=is_mapped)
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert octets(loaded[name]) == octets(tensor)
        assert (
            loaded[name].untyped_storage().data_ptr() % (64 if not is_mapped and tensor.numel() else 1) == 0
        )


def test_every_storage_begins_at_a_multiple_of_64(tmp_path: Path) -> None:
    write_torch(str(tmp_path / "x.pth"), [data_of(name, tensor) for name, tensor in TENSORS.items()])
    entries = read(tmp_path / "x.pth").entries
    assert [entry.start % 64 for entry in entries.values()] == [0] * len(TENSORS)


def test_names_values_and_aliases_become_one_nested_dict(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    values = {
        "epoch": 3,
        "model": {"version": "1", "vision": {"scale": 0.5}},
        "hyper_parameters": {"betas": (0.9, 0.99), "names": ["a", None], "raw": b"\0\xff", 7: -(1 << 70)},
    }
    matrix = TENSORS["matrix"]
    write_torch(
        str(path),
        [data_of("model/vision/blocks.0.weight", matrix), data_of("model/llm/embed", TENSORS["half"])],
        aliases={"model/llm/head": "model/llm/embed", "top": "model/llm/embed"},
        values=values,
    )
    loaded = torch.load(path, weights_only=True)
    embed = loaded["model"]["llm"].pop("embed")
    assert torch.equal(loaded["model"]["vision"].pop("blocks.0.weight"), matrix)
    assert loaded["model"]["llm"].pop("head").data_ptr() == embed.data_ptr() == loaded.pop("top").data_ptr()
    assert loaded.pop("model") == {"vision": {"scale": 0.5}, "llm": {}, "version": "1"}
    assert loaded == {key: value for key, value in values.items() if key != "model"}
    with zipfile.ZipFile(path) as file:
        assert [name for name in file.namelist() if "/data/" in name] == ["archive/data/0", "archive/data/1"]
        assert file.testzip() is None


def test_reader_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    tensors = [data_of(f"model/{name}", tensor) for name, tensor in TENSORS.items()]
    write_torch(str(path), tensors, aliases={"model/tied": "model/last"}, values={"a": {"b": [1, 2.5]}})
    shard = read(path)
    source = LocalSource(str(path))
    for name, tensor in TENSORS.items():
        entry = shard.entries[f"model/{name}"]
        assert entry.shape == tuple(tensor.shape)
        assert source.read_at(entry.start, entry.end - entry.start) == octets(tensor)
    assert (shard.aliases, shard.findings) == ({"model/tied": "model/last"}, ())
    assert shard.metadata == {"torch": {"a": {"b": [1, 2.5]}}}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers(-(1 << 300), 1 << 300) | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS | TEXTS | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner) | st.dictionaries(TEXTS, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=VALUES)
def test_plain_values_survive(value: Any) -> None:
    assert unpickle(pickle_of(value)).value == value


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("a.pth", "b.pth"):
        write_torch(str(tmp_path / name), [data_of(name, tensor) for name, tensor in TENSORS.items()])
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_pieces_make_no_difference(tmp_path: Path) -> None:
    for pieces in (1, 5):
        tensors = [data_of(name, tensor, pieces) for name, tensor in TENSORS.items()]
        write_torch(str(tmp_path / f"{pieces}.pth"), tensors)
    assert (tmp_path / "1.pth").read_bytes() == (tmp_path / "5.pth").read_bytes()


def test_zeros_and_a_hole_are_the_same_file(tmp_path: Path) -> None:
    for name, chunks in (("zeros", [bytes(4 * 70_000)]), ("hole", None)):
        write_torch(str(tmp_path / name), [TensorData("w", "F32", (700, 100), chunks)])
    assert (tmp_path / "zeros").read_bytes() == (tmp_path / "hole").read_bytes()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(size=st.integers(0, 1 << 20))
def test_checksum_of_zeros_is_computed_right(size: int) -> None:
    assert crc_of_zeros(size) == zlib.crc32(bytes(size))


@pytest.mark.usefixtures("strict_offsets")
def test_full_size_checkpoint_takes_no_room_and_little_time(tmp_path: Path) -> None:
    """Qwen2-VL-2B: 729 tensors, 4.4 GB."""
    header = {name: info for name, info in qwen2_vl_header().items() if name != "__metadata__"}
    tensors = [TensorData(name, "BF16", tuple(info["shape"]), None) for name, info in header.items()]
    path = tmp_path / "pytorch_model.bin"
    start = time.perf_counter()
    write_torch(str(path), tensors)
    seconds = time.perf_counter() - start
    status = path.stat()
    size = sum(tensor.bytes for tensor in tensors)
    assert (len(tensors), size) == (729, 4_417_971_200)
    assert size < status.st_size < size + 729 * 300
    assert status.st_blocks * 512 < 16 << 20
    assert seconds < 3
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert {name: list(tensor.shape) for name, tensor in loaded.items()} == {
        name: info["shape"] for name, info in header.items()
    }


def test_sizes_and_places_of_64_bits(tmp_path: Path) -> None:
    """What torch computes for a tensor on the meta device is where our reader finds it."""
    path = tmp_path / "x.pth"
    tensors = [
        TensorData("big", "U8", (5 * GIB,), None),
        data_of("small", TENSORS["matrix"]),
        TensorData("bigger", "F32", (5, GIB), None),
        data_of("last", TENSORS["last"]),
    ]
    write_torch(str(path), tensors)
    entries = read(path).entries
    loaded = torch.load(path, weights_only=True, map_location="meta")
    for name, entry in entries.items():
        assert loaded[name].untyped_storage()._checkpoint_offset == entry.start
        assert loaded[name].shape == entry.shape
    assert entries["last"].start > 25 * GIB
    source = LocalSource(str(path))
    for name in ("small", "last"):
        start, end = entries[name].start, entries[name].end
        assert source.read_at(start, end - start) == octets(TENSORS["matrix" if name == "small" else name])
    with zipfile.ZipFile(path) as file:
        sizes = [member.file_size for member in file.infolist() if "/data/" in member.filename]
    assert sizes == [5 * GIB, 24, 20 * GIB, 800]


def one(name: str = "w", dtype: str = "F32", size: int = 12) -> TensorData:
    return TensorData(name, dtype, (3,), [bytes(size)])


PLAIN = "None, bool, int, float, str, bytes, list, tuple or dict"
REFUSALS: dict[str, tuple[list[TensorData], dict[str, Any], str]] = {
    "too few bytes": ([one(size=8)], {}, "`w` gave 8 bytes\n  expected  12\n  file      PATH"),
    "too many bytes": ([one(size=16)], {}, "`w` gave 16 bytes\n  expected  12\n  file      PATH"),
    "half bytes": ([one(dtype="F4", size=2)], {}, "torch files do not hold F4\n  tensor  w"),
    "no such type": ([one(dtype="F3")], {}, "torch files do not hold F3\n  tensor  w"),
    "one name twice": ([one(), one()], {}, "the name of a tensor is taken\n  tensor  w"),
    "a tensor that holds others": (
        [one("a"), one("a/b")],
        {},
        "`a` is to be a tensor and to hold others\n  tensor  a/b",
    ),
    "a dict that is a tensor": ([one("a/b"), one("a")], {}, "the name of a tensor is taken\n  tensor  a"),
    "an alias of nothing": (
        [one()],
        {"aliases": {"v": "x"}},
        "there is no tensor `x`, whose bytes `v` is to share",
    ),
    "an alias that is taken": (
        [one()],
        {"aliases": {"w": "w"}},
        "the name of a tensor is taken\n  tensor  w",
    ),
    "a value in the place of a tensor": (
        [one("a/w")],
        {"values": {"a": {"w": 1}}},
        "a value has the name of tensors\n  value  a/w",
    ),
    "a value that is not plain": (
        [one()],
        {"values": {"when": time.gmtime(0)}},
        "a `struct_time` does not go into a torch file\n  expected  " + PLAIN,
    ),
    "an integer that is too long": (
        [one()],
        {"values": {"n": 1 << 3000}},
        "an integer has 3,001 bits\n  expected  at most 2,039",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_leaves_no_file_behind(tmp_path: Path, case: str) -> None:
    tensors, options, message = REFUSALS[case]
    path = tmp_path / "x.pth"
    with pytest.raises(WriteError) as caught:
        write_torch(str(path), tensors, **options)
    said, next_step = str(caught.value).split("\n\nhint: ")
    assert said == message.replace("PATH", str(path))
    assert next_step in (
        "write safetensors instead: --format safetensors",
        "give the tensors different names",
        "write the tensor before its second name",
        "the source changed while it was read; run the command again",
    )
    assert list(tmp_path.iterdir()) == []


def test_value_in_itself_is_refused(tmp_path: Path) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(WriteError) as caught:
        write_torch(str(tmp_path / "x.pth"), [], values={"a": value})
    assert str(caught.value) == (
        "a value is nested too deeply\n  expected  at most 64 levels\n\n"
        "hint: write safetensors instead: --format safetensors"
    )


def test_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_text("precious")
    with pytest.raises(WriteError) as caught:
        write_torch(str(path), [one()])
    assert (
        str(caught.value)
        == f"cannot write the file: File exists\n  file  {path}\n\nhint: choose another place"
    )
    assert path.read_text() == "precious"


def test_source_that_fails_leaves_no_file_behind(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(4)
        raise OSError(5, "the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        write_torch(str(tmp_path / "x.pth"), [TensorData("w", "F32", (3,), chunks())])
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said_and_leaves_no_file_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    path = tmp_path / "x.pth"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(WriteError) as caught:
            write_torch(str(path), [TensorData("w", "U8", (1_000_000,), [bytes(1_000_000)])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        str(caught.value)
        == f"cannot write the file: File too large\n  file  {path}\n\nhint: choose another place"
    )
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    program = (
        "import sys; from dovetail.store.torchfile.write import *;"
        f"write_torch({str(tmp_path / 'x.pth')!r}, [TensorData('w', 'F32', (2,), None)]);"
        "print(sorted({'torch', 'numpy', 'pickle'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    assert torch.load(tmp_path / "x.pth", weights_only=True)["w"].tolist() == [0, 0]
    assert os.listdir(tmp_path) == ["x.pth"]
