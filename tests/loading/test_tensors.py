"""Weights as a stream: what `convert` writes, tensor by tensor, and nothing of what does not fit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import CheckpointError, UsageError
from dovetail.store.open import open_checkpoint
from files import MODELS
from homes import homes
from models.every_model import CASES

Contents = dict[str, tuple[str, tuple[int, ...] | None, bytes]]


def made(folder: Path, id: str = "qwen2_vl", **options: Any) -> Path:
    options = {"dtype": "float32", "seed": 3, "set": MODELS[id][0], **options}
    return Path(dovetail.make(id, folder, **options).path)


def written(path: Path) -> Contents:
    """Every tensor of a checkpoint by its stored name."""
    with open_checkpoint(path) as store:
        return {name: (one.dtype, one.shape, store.read(name)) for name, one in store.entries.items()}


SPELLED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def streamed(path: Path, **options: Any) -> Contents:
    """The same of a stream."""
    return {
        name: (
            SPELLED[one.dtype],
            tuple(one.shape),
            one.contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, one in dovetail.tensors(path, **options)
    }


@pytest.mark.parametrize("id", sorted(MODELS))
def test_a_stream_is_what_convert_writes(id: str, tmp_path: Path) -> None:
    """In every layout: names, dtypes, shapes and bytes."""
    settings = next((case.settings for case in CASES.values() if case.family == id), {})
    first, *others = homes(id, 0)
    source = made(tmp_path / "here", id, layout=first)
    for layout in (first, *others):
        dovetail.convert(source, tmp_path / layout, to=layout, as_=id, set=settings)
        assert streamed(source, to=layout, as_=id, set=settings) == written(tmp_path / layout), layout


def test_casts_parts_and_padding_are_those_of_convert(tmp_path: Path) -> None:
    source = made(tmp_path / "here")
    for i, options in enumerate(
        [
            {"dtype": "bfloat16"},
            {"dtype": ["bfloat16", "*norm*=float32"]},
            {"without": "vision"},
            {"pad_vocab": 64},
        ]
    ):
        dovetail.convert(source, tmp_path / f"{i}", to="hf", **options)
        assert streamed(source, to="hf", **options) == written(tmp_path / f"{i}")


def test_the_order_is_that_of_the_files(tmp_path: Path) -> None:
    source = made(tmp_path / "here")
    with open_checkpoint(source) as store:
        in_file = sorted(store.entries, key=lambda name: store.entries[name].start)
    assert [name for name, _ in dovetail.tensors(source)] == in_file


def test_what_does_not_fit_is_refused_before_the_first_tensor(tmp_path: Path) -> None:
    source = made(tmp_path / "here")
    stored = load_file(source / "model.safetensors")
    lost = {name: one for name, one in stored.items() if name != "model.norm.weight"}
    save_file(lost, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 of 38 tensors of text is missing"):
        dovetail.tensors(source, to="litgpt")
    with pytest.raises(UsageError, match="qwen2_vl has no layout `nonsense`"):
        dovetail.tensors(made(tmp_path / "whole"), to="nonsense")


def test_values_must_be_those_of_the_certificate(tmp_path: Path) -> None:
    source = tmp_path / "here"
    dovetail.convert(made(tmp_path / "made"), source)
    assert len(streamed(source)) == len(written(source))
    data = bytearray((source / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (source / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="not those that the certificate has the hash of"):
        list(dovetail.tensors(source))
    assert len(list(dovetail.tensors(source, dtype="bfloat16"))) == len(written(source))  # no hash of these


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = made(tmp_path / "here")
    stream = dovetail.tensors(source)
    next(stream)
    (source / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="the source changed while it was read"):
        next(stream)


def test_numbers_that_have_no_room_stop_the_stream(tmp_path: Path) -> None:
    source = made(tmp_path / "here", "qwen2")
    stored = load_file(source / "model.safetensors")
    stored["model.norm.weight"][0] = 1e30
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 number too large for F16"):
        list(dovetail.tensors(source, dtype="float16"))
    assert len(list(dovetail.tensors(source, dtype="bfloat16"))) == len(stored)


def test_second_names_are_the_same_tensor(tmp_path: Path) -> None:
    sizes = MODELS["panovlm"][5]
    source = made(tmp_path / "here", "panovlm", layout="legacy", set=sizes)
    found = dict(dovetail.tensors(source, as_="panovlm"))
    one, other = "model.projector.linear.weight", "model.vision_to_language_projection.weight"
    assert found[f"state_dict/{one}"] is found[f"state_dict/{other}"]


PEAK = """
import sys, dovetail, torch
from dovetail.loading.tensors import tensors
def rss(): return int(open("/proc/self/statm").read().split()[1]) * 4096
torch.ones(8).sum()
before = most = rss()
size = 0
for name, tensor in tensors(sys.argv[1], to=sys.argv[2]):
    size += tensor.numel() * tensor.element_size()
    most = max(most, rss())
    del tensor
print(size, most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux what is in memory")
def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """A model of 330 MB whose largest tensor has 20: a layout that joins q, k and v included."""
    sizes = {
        **MODELS["qwen2"][0],
        "text.layers": 16,
        "text.d_model": 1024,
        "text.q_heads": 16,
        "text.kv_heads": 4,
        "text.head_dim": 64,
        "text.d_ff": 1280,
        "text.vocab": 5000,
    }
    source = made(tmp_path / "here", "qwen2", set=sizes)
    config = json.loads((source / "config.json").read_text())
    assert config["num_attention_heads"] == 16
    for layout in ("hf", "litgpt"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(source), layout], check=True, capture_output=True, text=True
        )
        size, grown = map(int, done.stdout.split())
        assert size > 320e6
        assert grown < 75e6, layout
