"""Files that the real torch.save writes, read without torch: names, shapes, places and values."""

import argparse
import enum
import pathlib
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.dtypes import DTYPES
from dovetail.errors import FormatError, UnsafeError
from dovetail.report import Finding
from dovetail.store.folder import LocalFolder
from dovetail.store.source import ByteSource, LocalSource
from dovetail.store.store import Entry, Shard, Store
from dovetail.store.torchzip import read_torch
from dovetail.store.ziparchive import read_archive

OPAQUE_HINT = "nothing of them was imported or run; the plain fields of their objects are kept as metadata"
DTYPE_NAMES = [dtype.name for dtype in DTYPES.values() if dtype.bits >= 8 and hasattr(torch, dtype.torch)]


def saved(value: Any, path: Path, **options: Any) -> Shard:
    torch.save(value, path, **options)
    return read_torch(LocalSource(str(path), name=path.name))


def opened(path: Path) -> Store:
    shard = read_torch(LocalSource(str(path)))
    return Store(
        str(path), "torch", files=[path.name], folder=LocalFolder(str(path.parent)), **shard._asdict()
    )


def octets(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row-major order."""
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def check_values(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with opened(path) as store:
        assert list(store.entries) == list(tensors)
        for name, tensor in tensors.items():
            entry = store.entries[name]
            assert DTYPES[entry.dtype].torch == str(tensor.dtype).removeprefix("torch.")
            assert entry.shape == tuple(tensor.shape)
            assert store.read(name) == octets(tensor), name


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = int(np.prod(shape)) * dtype.itemsize
    values = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8)
    return values.view(dtype).reshape(shape)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.head = torch.nn.Linear(5, 7)
        self.head.weight = self.embed.weight


class Stage(enum.Enum):
    VISION = "vision"


class ResamplerConfig:
    """What CORA pickles beside its weights: an object with plain fields."""

    def __init__(self) -> None:
        self.resampler_type = "bimamba"
        self.resampler_config = {"d_state": 64, "expand": 1.75, "norm_first": True}
        self.stage = Stage.VISION


def test_state_dict_is_read_as_it_is(tmp_path: Path) -> None:
    state = Net().state_dict()
    shard = saved(state, tmp_path / "net.pth")
    check_values(tmp_path / "net.pth", dict(state))
    assert shard.aliases == {"head.weight": "embed.weight"}
    assert (shard.metadata, shard.findings) == ({}, ())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nested_checkpoint_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    vision, projector = random(3, 4), random(2)
    parts = {
        "vision_backbone": {"featurizer.pos_embed": vision},
        "projector": {"projector.0.bias": projector},
    }
    value = {
        "model": parts,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-4, "params": [0]}],
        },
    }
    shard = saved(value, tmp_path / "latest-checkpoint.pt", pickle_protocol=protocol)
    assert list(shard.entries) == [
        "model/vision_backbone/featurizer.pos_embed",
        "model/projector/projector.0.bias",
        "optimizer/state/0/step",
    ]
    assert shard.metadata == {"torch": {"optimizer": {"param_groups": [{"lr": 1e-4, "params": [0]}]}}}


def test_lightning_checkpoint_gives_its_hyper_parameters(tmp_path: Path) -> None:
    weight = random(4, 4)
    value = {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"model.resampler.input_proj.weight": weight},
        "hyper_parameters": {
            "config": ResamplerConfig(),
            "args": argparse.Namespace(lr=1e-3, out=pathlib.PurePosixPath("/data/run")),
            "lr": np.float64(0.001),
            "layers": np.int64(4),
            "stage": Stage.VISION,
            "dtype": torch.bfloat16,
            "device": torch.device("cuda", 0),
            "statistics": np.array([0.5, 0.25]),
        },
        "torch": torch.__version__,
    }
    shard = saved(value, tmp_path / "last.ckpt")
    check_values(tmp_path / "last.ckpt", {"state_dict/model.resampler.input_proj.weight": weight})
    fields = {
        "resampler_type": "bimamba",
        "resampler_config": {"d_state": 64, "expand": 1.75, "norm_first": True},
        "stage": "vision",
    }
    assert shard.metadata["torch"] == {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {
            "config": fields,
            "args": {"lr": 1e-3, "out": "/data/run"},
            "lr": 0.001,
            "layers": 4,
            "stage": "vision",
            "dtype": "torch.bfloat16",
            "device": "cuda:0",
            "statistics": [0.5, 0.25],
        },
        "torch": str(torch.__version__),
    }
    names = f"{ResamplerConfig.__module__}.ResamplerConfig, {ResamplerConfig.__module__}.Stage"
    assert shard.findings == (
        Finding(
            code="opaque-object",
            severity="note",
            message=f"names in the pickle that dovetail does not know: {names}",
            hint=OPAQUE_HINT,
        ),
    )


@pytest.mark.parametrize("name", DTYPE_NAMES)
def test_every_element_type(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, DTYPES[name].torch)
    tensors = {
        "matrix": random(3, 4, dtype=dtype),
        "turned": random(3, 4, dtype=dtype).T,
        "scalar": random(dtype=dtype),
        "empty": random(0, 3, dtype=dtype),
        "slice": random(5, 4, dtype=dtype)[1:4],
    }
    torch.save(tensors, tmp_path / "x.pth")
    check_values(tmp_path / "x.pth", tensors)


def test_views_are_gathered_from_their_storage(tmp_path: Path) -> None:
    base = random(6, 8)
    tensors = {
        "base": base,
        "turned": base.T,
        "column": base[:, 3],
        "every_second": base[::2, 1::3],
        "row": base[2],
        "middle": base[2:4],
        "wide": base[:1].expand(4, 8),
        "scalar": base[5, 7],
        "none": base[6:],
        "one_column": base[:, :1],
        "axes_of_one": base[2:3].reshape(1, 8, 1),
        "windows": base.flatten().unfold(0, 4, 2),
        "permuted": random(2, 3, 4).permute(2, 0, 1),
    }
    torch.save(tensors, tmp_path / "x.pth")
    check_values(tmp_path / "x.pth", tensors)
    entries = opened(tmp_path / "x.pth").entries
    start = entries["base"].start
    assert entries["base"] == Entry("F32", (6, 8), 0, start, start + 192)
    assert entries["turned"] == Entry("F32", (8, 6), 0, start, start + 192, (1, 8))
    assert entries["row"] == Entry("F32", (8,), 0, start + 64, start + 96)
    assert entries["wide"] == Entry("F32", (4, 8), 0, start, start + 32, (0, 1))
    assert entries["one_column"] == Entry("F32", (6, 1), 0, start, start + 164, (8, 1))
    assert entries["axes_of_one"].strides is None
    assert entries["none"].strides is None


def test_same_view_is_an_alias_and_another_one_is_noted(tmp_path: Path) -> None:
    base = random(6, 8)
    shard = saved(
        {"a": base, "tied": base, "again": base.view(6, 8), "flat": base.view(-1), "row": base[2]},
        tmp_path / "x.pth",
    )
    assert shard.aliases == {"tied": "a", "again": "a"}
    assert shard.findings == (
        Finding(
            code="shared-storage",
            severity="note",
            message="3 tensors are different views of the same bytes",
            tensors=("a", "flat", "row"),
        ),
    )


def test_pieces_of_one_storage_that_do_not_overlap_are_no_matter(tmp_path: Path) -> None:
    q, k, v = random(6, 8).split(2)
    shard = saved({"q": q, "k": k, "v": v}, tmp_path / "x.pth")
    assert (shard.aliases, shard.findings) == ({}, ())
    check_values(tmp_path / "x.pth", {"q": q, "k": k, "v": v})


def test_bytes_of_no_tensor_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    saved({"a": random(3)}, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x/data/7", bytes(100))
    assert [finding.message for finding in read_torch(LocalSource(str(path))).findings] == [
        "1 storages (100 bytes) belong to no tensor: x/data/7"
    ]


def test_tensor_that_no_name_leads_to_is_a_warning(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(random(3, 2))
    weight.scale = random(3)  # type: ignore[attr-defined]
    shard = saved({"w": weight}, tmp_path / "x.pth")
    assert list(shard.entries) == ["w"]
    assert shard.findings[0] == Finding(
        code="unnamed-tensor",
        severity="warning",
        message="1 tensors in the pickle have no name and are left out: F32 [3]",
    )


def test_parameters_modules_and_subclasses(tmp_path: Path) -> None:
    tensors = {"p": torch.nn.Parameter(random(3)), "s": random(2, 2).as_subclass(Special)}
    torch.save(tensors, tmp_path / "x.pth")
    check_values(
        tmp_path / "x.pth", {name: tensor.as_subclass(torch.Tensor) for name, tensor in tensors.items()}
    )


class Special(torch.Tensor):
    pass


def test_meta_tensors_have_no_bytes(tmp_path: Path) -> None:
    shard = saved({"a": torch.empty(2, 3, device="meta"), "b": random(2)}, tmp_path / "x.pth")
    assert shard.entries["a"] == Entry("F32", (2, 3), 0, -1, -1)
    assert shard.entries["b"].start > 0


@pytest.mark.parametrize("value", [random(2, 3), random(2, 3).T])
def test_bare_tensor_is_named_tensor(tmp_path: Path, value: torch.Tensor) -> None:
    torch.save(value, tmp_path / "x.pth")
    check_values(tmp_path / "x.pth", {"tensor": value})


def test_bare_storage_and_list(tmp_path: Path) -> None:
    tensor = random(2, 3)
    torch.save([tensor.untyped_storage()], tmp_path / "x.pth")
    check_values(tmp_path / "x.pth", {"0": tensor.view(torch.uint8).flatten()})


def test_empty_checkpoint_is_read(tmp_path: Path) -> None:
    assert saved({}, tmp_path / "x.pth") == Shard({}, {}, {}, ())


def test_zero_emptied_tensors_are_read(tmp_path: Path) -> None:
    """DeepSpeed ZeRO-3 leaves `[0]` where a parameter lives on another rank."""
    tensors = {"a": torch.empty(0, dtype=torch.bfloat16), "b": torch.empty(0, dtype=torch.bfloat16)}
    shard = saved(tensors, tmp_path / "x.pth")
    check_values(tmp_path / "x.pth", tensors)
    assert shard.aliases == {}


def test_file_without_checksums_alignment_or_byteorder(tmp_path: Path) -> None:
    """Older torch writes fewer records; set_crc32_options(False) leaves checksums out."""
    path, tensors = tmp_path / "x.pth", {"a": random(3), "b": random(5)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check_values(path, tensors)
    torch.save(tensors, path)
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in ("x/data.pkl", "x/data/0", "x/data/1", "x/version"):
            old.writestr(name, file.read(name))
    check_values(tmp_path / "old.pth", tensors)


def test_more_than_four_gigabytes(tmp_path: Path) -> None:
    """Sizes and places of 64 bits; the file is a hole."""
    path = tmp_path / "big.pth"
    with torch.serialization.skip_data():
        torch.save(
            {"a": torch.empty(5 << 30, dtype=torch.uint8), "b": torch.empty(3), "c": torch.empty(70)}, path
        )
    shard = read_torch(LocalSource(str(path)))
    size = 5 << 30
    assert shard.entries == {
        "a": Entry("U8", (size,), 0, 832, 832 + size),
        "b": Entry("F32", (3,), 0, 832 + size + 128, 832 + size + 140),
        "c": Entry("F32", (70,), 0, 832 + size + 256, 832 + size + 536),
    }
    assert torch.load(path, map_location="meta", weights_only=True)[
        "c"
    ].untyped_storage()._checkpoint_offset == (shard.entries["c"].start)


# Files over a network


class Remote(ByteSource):
    """A file that counts how often it is asked."""

    def __init__(self, data: bytes) -> None:
        self.name, self.size, self.data = "remote.pth", len(data), data
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def close(self) -> None:
        pass


def big_state() -> dict[str, torch.Tensor]:
    return {f"layers.{index}.weight": torch.empty(17 + index, 999) for index in range(40)}


def test_remote_file_costs_five_reads(tmp_path: Path) -> None:
    """Its first bytes, its directory, its pickle, the first and the last header."""
    path = tmp_path / "x.pth"
    local = saved(big_state(), path)
    source = Remote(path.read_bytes())
    assert read_torch(source) == local
    assert len(source.reads) == 5
    assert sum(length for _, length in source.reads) < 100_000


def test_directory_longer_than_one_read(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", {f"w{index}": torch.full((2,), index) for index in range(1500)}
    local = saved(state, path)
    assert read_torch(Remote(path.read_bytes())) == local
    check_values(path, state)


def test_directory_of_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.pth").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(100_000_005)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 100_000_001, 4, 0))
    with pytest.raises(FormatError) as caught:
        read_torch(LocalSource(str(tmp_path / "x.pth"), name="x.pth"))
    assert str(caught.value) == (
        "not a valid torch file: its directory is 100,000,001 bytes long\n"
        "  file      x.pth\n"
        "  expected  at most 100,000,000"
    )


def test_wide_sizes_stand_behind_other_extra_fields(tmp_path: Path) -> None:
    """Another program may write the 64-bit sizes after a time stamp, and though they would fit 32."""
    tensor = random(3)
    torch.save({"w": tensor}, tmp_path / "x.pth")
    data = rezipped(tmp_path / "x.pth")
    at = data.index(b"PK\1\2", data.index(b"x/byteorder", data.index(b"PK\1\2")))
    name, start = b"x/data/0", int.from_bytes(data[at + 42 : at + 46], "little")
    assert data[at + 46 : at + 54] == name
    extra = b"UT\5\0\1aaaa" + struct.pack("<2H3Q", 1, 24, 12, 12, start)
    entry = bytearray(data[at : at + 54] + extra)
    entry[20:28] = b"\xff" * 8
    entry[30:32], entry[42:46] = struct.pack("<H", len(extra)), b"\xff" * 4
    end = bytearray(data[-22:])
    end[12:16] = (int.from_bytes(end[12:16], "little") + len(extra)).to_bytes(4, "little")
    wide = tmp_path / "wide.pth"
    wide.write_bytes(data[:at] + entry + data[at + 54 : -22] + end)
    check_values(wide, {"w": tensor})


def rezipped(path: Path, extra: bytes = b"") -> bytes:
    """The file as another program packs it again: no alignment, other extra fields."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".zip"), "w") as new:
        for entry in old.infolist():
            fresh = zipfile.ZipInfo(entry.filename)
            fresh.extra = extra
            new.writestr(fresh, old.read(entry))
    return path.with_suffix(".zip").read_bytes()


@pytest.mark.parametrize("extra", [b"", b"UT\x05\0\x01aaaa", b"UT\x19\0" + b"a" * 25])
def test_remote_file_of_another_writer_is_read_at_the_right_places(tmp_path: Path, extra: bytes) -> None:
    state = {name: random(*tensor.shape) for name, tensor in big_state().items()}
    torch.save(state, tmp_path / "x.pth")
    data = rezipped(tmp_path / "x.pth", extra)
    shard = read_torch(Remote(data))
    for name, tensor in state.items():
        entry = shard.entries[name]
        assert data[entry.start : entry.end] == octets(tensor)


def without_padding(path: Path) -> bytes:
    """The file with each entry's padding behind its data: both ways to compute its place agree, wrongly."""
    out, directory = b"", b""
    with zipfile.ZipFile(path) as old:
        for entry in old.infolist():
            name, data, start = entry.filename.encode(), old.read(entry), len(out)
            rest = struct.pack("<5H3I2H", 0, 0, 0, 0, 0, entry.CRC, len(data), len(data), len(name), 0)
            out += b"PK\3\4" + rest + name
            padding = -(len(out) + 4) % 64 + 4
            out += data + b"Z" * padding
            directory += b"PK\1\2\0\0" + rest + struct.pack("<3H2I", 0, 0, 0, 0, start) + name
        count = len(old.infolist())
    return (
        out + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(out), 0)
    )


def test_place_that_is_computed_wrongly_is_found_out(tmp_path: Path) -> None:
    state = {f"w{index}": random(50, 1000) for index in range(6)}
    torch.save(state, tmp_path / "x.pth")
    data = without_padding(tmp_path / "x.pth")
    source = Remote(data)
    members = [member for name, member in read_archive(source).members.items() if name.startswith("data/")]
    shard = read_torch(source)
    starts = [entry.start for entry in shard.entries.values()]
    assert all(member.start(64) not in (None, start) for member, start in zip(members, starts, strict=True))
    for name, tensor in state.items():
        assert data[shard.entries[name].start : shard.entries[name].end] == octets(tensor)


# What torch wrote and dovetail does not read


def quantised() -> Any:
    with warnings.catch_warnings(action="ignore"):
        return torch._empty_affine_quantized((2,), scale=0.1, zero_point=0, dtype=torch.qint8)


REFUSALS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a whole model": (
        lambda: torch.nn.Linear(2, 2),
        UnsafeError,
        (
            "the pickle would call `torch.nn.modules.linear.Linear`\n"
            "  file   x.pth\n"
            "  place  byte 37 of the pickle\n"
            "\n"
            "hint: do not load this file with torch.load(weights_only=False), which would run the call;"
            " it holds a whole model object, save the weights alone: torch.save(model.state_dict(), PATH)"
        ),
    ),
    "a sparse tensor": (
        lambda: {"w": torch.eye(2).to_sparse()},
        FormatError,
        (
            "a sparse tensor cannot be read\n"
            "  file   x.pth\n"
            "  place  byte 370 of the pickle, after 'w'\n"
            "  call   torch._utils._rebuild_sparse_tensor\n"
            "\n"
            "hint: save it again after .to_dense()"
        ),
    ),
    "a quantised tensor": (
        lambda: {"w": quantised()},
        FormatError,
        (
            "a storage holds quantised values (`torch.QInt8Storage`)\n"
            "  file   x.pth\n"
            "  place  byte 107 of the pickle, after 'w'\n"
            "\n"
            "hint: save it again after .dequantize(), or as .int_repr() with its scales"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(tmp_path: Path, case: str) -> None:
    make, kind, message = REFUSALS[case]
    with pytest.raises(kind) as caught:
        saved(make(), tmp_path / "x.pth")
    assert str(caught.value) == message


def test_legacy_file_is_refused_with_the_line_that_rewrites_it(tmp_path: Path) -> None:
    state = {"w": random(2, 3)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(FormatError) as caught:
        read_torch(LocalSource(str(tmp_path / "old.pth"), name="old.pth"))
    command = "import torch; torch.save(torch.load('old.pth', weights_only=True), 'NEW.pth')"
    assert str(caught.value) == (
        "not a valid torch file: it has the format of torch before 1.6\n"
        "  file  old.pth\n"
        "\n"
        f'hint: rewrite it: python -c "{command}"'
    )
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    check_values(tmp_path / "NEW.pth", state)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    names = ("data.pkl", "constants.pkl", "code/__torch__.py")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        for name in names:
            file.writestr(f"x/{name}", b"")
    with pytest.raises(FormatError) as caught:
        read_torch(LocalSource(str(tmp_path / "x.pt"), name="x.pt"))
    assert str(caught.value) == (
        "not a valid torch file: it is a TorchScript program, not saved weights\n"
        "  file  x.pt\n"
        "\n"
        "hint: load it with torch.jit.load and save its state_dict() with torch.save"
    )


def test_reading_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    torch.save({"w": random(2)}, tmp_path / "x.pth")
    program = (
        "import sys; from dovetail.store.torchzip import read_torch; from dovetail.store.source import *;"
        f"read_torch(LocalSource({str(tmp_path / 'x.pth')!r}));"
        "print(sorted({'torch', 'numpy', 'pickle'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
