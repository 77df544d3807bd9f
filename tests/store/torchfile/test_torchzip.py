"""Files that the real torch.save writes, read without torch: names, shapes, places and values."""

import argparse
import enum
import pathlib
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

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.dtypes import DTYPES
from dovetail.errors import FormatError, UnsafeError
from dovetail.report import Finding
from dovetail.store.source import LocalSource
from dovetail.store.store import Entry, Shard
from dovetail.store.torchfile.read import read_torch
from torchfiles import check_values, opened, random, saved

OPAQUE_HINT = "nothing of them was imported or run; the plain fields of their objects are kept as metadata"
DTYPE_NAMES = [dtype.name for dtype in DTYPES.values() if dtype.bits >= 8 and hasattr(torch, dtype.torch)]


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
        "1 storage of no tensor, 100 bytes: x/data/7"
    ]


def test_tensor_that_no_name_leads_to_is_a_warning(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(random(3, 2))
    weight.scale = random(3)  # type: ignore[attr-defined]
    shard = saved({"w": weight}, tmp_path / "x.pth")
    assert list(shard.entries) == ["w"]
    assert shard.findings[0] == Finding(
        code="unnamed-tensor",
        severity="warning",
        message="1 tensor in the pickle without a name, left out: F32 [3]",
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
    command = (
        "from sys import argv; import torch; torch.save(torch.load(argv[1], weights_only=True), argv[2])"
    )
    assert str(caught.value) == (
        "not a valid torch file: it has the format of torch before 1.6\n"
        "  file  old.pth\n"
        "\n"
        f'hint: rewrite it: python -c "{command}" old.pth NEW.pth'
    )
    words = [sys.executable, "-c", command, "old.pth", "NEW.pth"]
    subprocess.run(words, cwd=tmp_path, check=True)
    check_values(tmp_path / "NEW.pth", state)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    names = ("data.pkl", "constants.pkl", "code/__torch__.py")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        for name in names:
            file.writestr(f"x/{name}", b"")
    with pytest.raises(FormatError) as caught:
        read_torch(LocalSource(str(tmp_path / "x.pt"), name="x.pt"))
    assert str(caught.value) == (
        "this is a TorchScript program, which torch.jit reads\n"
        "  file  x.pt\n"
        "\n"
        'hint: make it readable: `python -c "from sys import argv; import torch; '
        "torch.save(torch.jit.load(argv[1], 'cpu').state_dict(), argv[2])\" x.pt OUT.pth`"
    )


def test_reading_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    torch.save({"w": random(2)}, tmp_path / "x.pth")
    program = (
        "import sys; from dovetail.store.torchfile.read import read_torch; from dovetail.store.source import *;"
        f"read_torch(LocalSource({str(tmp_path / 'x.pth')!r}));"
        "print(sorted({'torch', 'numpy', 'pickle'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
