"""Formats that dovetail does not read, from their own writers: what they are, who reads them, the command."""

import contextlib
import io
import re
import runpy
import shlex
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as parts

import dovetail
from dovetail.errors import FormatError, MissingError
from dovetail.store.foreign import FORMATS

WEIGHTS = {"fc1.weight": torch.arange(6.0).view(2, 3), "fc1.bias": torch.ones(2)}


class Program(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(3, 2)
        self.fc1.load_state_dict({name.removeprefix("fc1."): value for name, value in WEIGHTS.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc1(x)


def scripted(path: Path) -> None:
    torch.jit.script(Program().eval()).save(path)


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(Program().eval(), (torch.zeros(1, 3),)), path)


def zipped(path: Path) -> None:
    np.savez(path, **{name: value.numpy() for name, value in WEIGHTS.items()})


def compressed(path: Path) -> None:
    np.savez_compressed(path, **{name: value.numpy() for name, value in WEIGHTS.items()})


def distributed(path: Path) -> None:
    parts.save({"model": WEIGHTS}, checkpoint_id=path)


def a_part(path: Path) -> None:
    parts.save({"model": WEIGHTS}, checkpoint_id=path.parent)


def onnx_graph(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    made = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in WEIGHTS.items()]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph([], "g", [], [output], made)
    onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), path)


# file or folder, who writes it, what it is called, and the tensors that the command finds in it
WRITTEN: dict[str, tuple[Callable[[Path], None], str, set[str]]] = {
    "program.pt": (scripted, "a TorchScript program, which torch.jit reads", set(WEIGHTS)),
    "program.pt2": (exported, "an exported program (.pt2), which torch.export reads", set(WEIGHTS)),
    "a.npz": (zipped, "an archive of numpy (.npz), which numpy reads", set(WEIGHTS)),
    "b.npz": (compressed, "an archive of numpy (.npz), which numpy reads", set(WEIGHTS)),
    "one.npy": (lambda path: np.save(path, np.zeros(3)), "one array of numpy (.npy), which", {"array"}),
    "graph.onnx": (onnx_graph, "an ONNX graph, which onnxruntime reads", set(WEIGHTS)),
    "whole": (
        distributed,
        "a checkpoint of torch.distributed in parts",
        {f"model/{name}" for name in WEIGHTS},
    ),
    "whole/__0_0.distcp": (
        a_part,
        "a checkpoint of torch.distributed",
        {f"model/{name}" for name in WEIGHTS},
    ),
}


def carried_out(command: str, out: Path) -> None:
    """Runs the command of a hint in this process, with another place for what it writes."""
    words = shlex.split(command)
    assert words[0] == "python"
    before = sys.argv
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            if words[1] == "-c":
                sys.argv = ["-c", *words[3:-1], str(out)]
                exec(words[2], {})
            else:
                sys.argv = [words[2], *words[3:-1], str(out)]
                runpy.run_module(words[2], run_name="__main__")
        finally:
            sys.argv = before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow) if one == "program.pt2" else one for one in WRITTEN]
)
def test_it_is_named_and_the_command_makes_it_readable(name: str, tmp_path: Path) -> None:
    write, what, tensors = WRITTEN[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name)
    with pytest.raises(FormatError) as refusal:
        dovetail.inspect(tmp_path / name)
    assert refusal.value.message.startswith(f"this is {what}")
    match = re.match(r"make it readable: `(.*?) (OUT\S*)`", refusal.value.hint or "")
    assert match is not None
    out = tmp_path / match[2]
    carried_out(f"{match[1]} {match[2]}", out)
    assert {row.name for row in dovetail.ls(out)} == tensors


def test_a_folder_of_one_is_named_too(tmp_path: Path) -> None:
    zipped(tmp_path / "weights.npz")
    with pytest.raises(FormatError, match=r"this is an archive of numpy") as refusal:
        dovetail.inspect(tmp_path)
    assert refusal.value.details == {"file": str(tmp_path / "weights.npz")}
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="the file is empty"):
        dovetail.inspect(tmp_path)


# names and first bytes as llama.cpp, h5py, flax, orbax-checkpoint 0.12, openvino, LiteRT and others write them
NAMED = {
    ("model-Q4_K_M.gguf",): "a GGUF file",
    ("tf_model.h5", "config.json"): "an HDF5 file",
    ("flax_model.msgpack",): "a Flax checkpoint",
    ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "d/0123"): "an Orbax checkpoint of JAX",
    ("params/_METADATA", "params/manifest.ocdbt", "assets/norm_stats.json"): "an Orbax checkpoint of JAX",
    ("openvino_model.xml", "openvino_model.bin", "config.json"): "a model of OpenVINO",
    ("model.onnx", "model.onnx.data"): "an ONNX graph",
    (
        "pytorch_model_fsdp_0/.metadata",
        "pytorch_model_fsdp_0/__0_0.distcp",
    ): "a checkpoint of torch.distributed",
    ("model.rkllm",): "a model for Rockchip's NPU",
    ("model.ckpt-100.index", "model.ckpt-100.data-00000-of-00001"): "a TensorFlow checkpoint",
}


@pytest.mark.parametrize("names", NAMED)
def test_folders_are_told_by_the_names_in_them(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FormatError) as refusal:
        dovetail.inspect(tmp_path)
    assert refusal.value.message.startswith(f"this is {NAMED[names]}")
    assert refusal.value.hint


HEADS = {
    b"GGUF\3\0\0\0": "a GGUF file",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0": "an ONNX graph",
    b"\x1c\0\0\0TFL3": "a TFLite model",
    b'<?xml version="1.0"?>\n<net name="a" version="11">': "a model of OpenVINO",
}


@pytest.mark.parametrize("head", HEADS)
def test_files_are_told_by_their_first_bytes(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(head + bytes(100))
    with pytest.raises(FormatError, match=f"^this is {HEADS[head]}, which "):
        dovetail.inspect(tmp_path / "model")


def zero(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "run" / "global_step10" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"module": WEIGHTS}, path)
    (folder / "run" / "latest").write_text("global_step10")
    return folder / "run"


def test_ranks_of_deepspeed_are_put_together_from_the_folder_above_the_step(tmp_path: Path) -> None:
    run = zero(tmp_path, *(f"zero_pp_rank_{i}_mp_rank_00_model_states.pt" for i in (0, 1)))
    for given in (run, run / "global_step10"):
        with pytest.raises(FormatError, match="DeepSpeed") as refusal:
            dovetail.inspect(given)
        assert refusal.value.hint == (
            f"make it readable: `python -m deepspeed.utils.zero_to_fp32 {run} OUT --safe_serialization`"
        )


def test_of_zero_2_the_file_with_all_weights_is_offered_and_read(tmp_path: Path) -> None:
    optim = [f"bf16_zero_pp_rank_{i}_mp_rank_00_optim_states.pt" for i in (0, 1)]
    run = zero(tmp_path, "mp_rank_00_model_states.pt", *optim)
    with pytest.raises(FormatError, match="DeepSpeed") as refusal:
        dovetail.inspect(run)
    whole = run / "global_step10" / "mp_rank_00_model_states.pt"
    assert (refusal.value.hint or "").endswith(f"; or give {whole}, which has the weights in 16 bits")
    assert {row.name for row in dovetail.ls(whole)} == {f"module/{name}" for name in WEIGHTS}


def test_weights_beside_what_is_not_read_are_opened(tmp_path: Path) -> None:
    run = zero(tmp_path, "zero_pp_rank_0_mp_rank_00_model_states.pt")
    torch.save(WEIGHTS, run / "pytorch_model.bin")
    (run / "model.onnx").write_bytes(b"x")
    assert {row.name for row in dovetail.ls(run)} == set(WEIGHTS)


def test_other_zip_files_are_still_no_torch_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/data.npy", b"x")
        archive.writestr("a/other", b"x")
    with pytest.raises(FormatError, match="not a valid torch file"):
        dovetail.inspect(tmp_path / "a.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="there are no weights in this folder"):
        dovetail.inspect(tmp_path / "empty")


def test_every_format_has_a_name_a_reader_and_a_next_step() -> None:
    assert all(one.what and one.reader and (one.command or one.note) and one.names for one in FORMATS)
    assert all("{path}" in one.command for one in FORMATS if one.command)
