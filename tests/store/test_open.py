"""Folders, indexes, shards, listings, and everything that is no checkpoint, with whole messages."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dovetail.errors import CheckpointError, DovetailError, FormatError, MissingError, UnsafeError, UsageError
from dovetail.store.open import open_checkpoint
from files import safetensors_bytes, write_listing

A = {"a.weight": ["F32", [2, 3]]}
B = {"b.weight": ["BF16", [4]]}
INDEX = "model.safetensors.index.json"


def folder_with(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def index_of(weight_map: dict[str, str], total: int = 32) -> dict[str, Any]:
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def findings(path: Path) -> list[tuple[str, str, str]]:
    with open_checkpoint(path) as store:
        return [(f.code, f.severity, f.message) for f in store.findings]


def refused(path: Path, kind: type[DovetailError] = FormatError) -> str:
    with pytest.raises(kind) as error:
        open_checkpoint(path)
    assert kind in type(error.value).__mro__[:2]  # a pointer is a FormatError of its own
    return str(error.value).replace(str(path.parent), "DIR")


@pytest.mark.parametrize(
    "length",
    [0x0280, 0x0380, 0x0480, 0x0580, 0x8B1F, 0x4B50, 0xB528, 0x3C3C, 0x7B7B, 0x5B20],
    ids=["pickle 2", "pickle 3", "pickle 4", "pickle 5", "gzip", "PK", "zstd", "<<", "{{", " ["],
)
def test_the_length_of_a_header_is_not_taken_for_another_format(length: int, tmp_path: Path) -> None:
    """The first bytes of a safetensors file are a number, and every number comes up."""
    plain = safetensors_bytes(A)
    data = safetensors_bytes(A, pad=length - int.from_bytes(plain[:8], "little"))
    assert int.from_bytes(data[:8], "little") == length
    path = tmp_path / "model.bin"  # whatever it is called
    path.write_bytes(data)
    with open_checkpoint(path) as store:
        assert store.format == "safetensors"
        assert list(store.entries) == ["a.weight"]


def test_one_file_a_folder_and_its_index_are_one_checkpoint(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        {
            "one-00001-of-00002.safetensors": safetensors_bytes(A),
            "one-00002-of-00002.safetensors": safetensors_bytes(B),
            INDEX: index_of(
                {"a.weight": "one-00001-of-00002.safetensors", "b.weight": "one-00002-of-00002.safetensors"}
            ),
        },
    )
    for path in (folder, folder / INDEX):
        with open_checkpoint(path) as store:
            assert store.format == "sharded"
            assert {n: (e.dtype, e.shape, e.file) for n, e in store.entries.items()} == {
                "a.weight": ("F32", (2, 3), 0),
                "b.weight": ("BF16", (4,), 1),
            }
            assert store.read("b.weight") == bytes(8)
            assert store.findings == []


def test_numbered_shards_without_an_index_are_read_by_number(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        {
            "model-00002-of-00003.safetensors": safetensors_bytes(B),
            "model-00001-of-00003.safetensors": safetensors_bytes(A),
        },
    )
    assert findings(folder) == [
        ("missing-shard", "error", "1 of 3 shards are not here: number 00003"),
        ("no-index", "note", "2 shards and no index; they were read by their numbers"),
    ]


def test_an_index_is_compared_with_its_shards(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        {
            "x.safetensors": safetensors_bytes({**A, "extra": ["F32", [1]]}),
            "y.safetensors": safetensors_bytes(B),
            INDEX: index_of(
                {
                    "a.weight": "y.safetensors",
                    "b.weight": "y.safetensors",
                    "lost": "x.safetensors",
                    "far": "z.safetensors",
                }
            ),
        },
    )
    assert findings(folder) == [
        ("index-mismatch", "error", f"1 tensor named in {INDEX} and not in its shards, first `lost`"),
        ("index-mismatch", "error", f"1 tensor in the shards and not in {INDEX}, first `extra`"),
        ("index-mismatch", "error", f"1 tensor in another shard than {INDEX} says, first `a.weight`"),
    ]
    with open_checkpoint(folder) as store:
        assert store.absent is not None
        assert (store.absent.total, store.absent.tensors) == (3, {"z.safetensors": ("far",)})


def test_a_wrong_total_size_is_a_note(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        {"x.safetensors": safetensors_bytes(A), INDEX: index_of({"a.weight": "x.safetensors"}, 48)},
    )
    assert findings(folder) == [
        ("index-total", "note", f"{INDEX} says total_size 48, the tensors have 24 bytes")
    ]


def test_an_index_alone_gives_names_and_says_what_it_cannot(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m", {INDEX: index_of({"a.weight": "x.safetensors", "b.weight": "y.safetensors"})}
    )
    with open_checkpoint(folder / INDEX) as store:
        assert (store.format, list(store.entries), store.has_shapes, store.has_bytes) == (
            "index",
            ["a.weight", "b.weight"],
            False,
            False,
        )
        assert store.limits == ("shapes and dtypes (an index has names only)", "values")
        assert store.findings == []
        with pytest.raises(CheckpointError) as error:
            store.read("a.weight")
        assert error.value.message == "this input holds no values, only names and shapes"
    for path in (folder, folder / INDEX):
        with open_checkpoint(path) as store:
            assert store.absent is not None
            assert store.absent.is_all
            assert list(store.absent.tensors) == ["x.safetensors", "y.safetensors"]


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "a/../../b", "C:\\weights", "..\\x", "."]
)
def test_an_index_cannot_point_outside_the_folder(name: str, tmp_path: Path) -> None:
    folder_with(tmp_path, {"outside.safetensors": safetensors_bytes(A)})
    folder = folder_with(tmp_path / "m", {INDEX: index_of({"a.weight": name})})
    assert refused(folder, UnsafeError) == (
        f"`{name}` points outside the checkpoint's folder\n  file    {INDEX}\n  folder  DIR/m\n\n"
        "hint: a checkpoint may only name files beside itself; do not trust this one"
    )


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, {"outside.safetensors": safetensors_bytes(A)})
    folder = folder_with(tmp_path / "m", {INDEX: index_of({"a.weight": "x.safetensors"})})
    (folder / "x.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert refused(folder, UnsafeError) == (
        "`x.safetensors` is a symbolic link that leaves the checkpoint's folder\n  folder  DIR/m\n"
        f"  target  {os.path.realpath(tmp_path)}/outside.safetensors\n\n".replace(str(tmp_path), "DIR")
        + "hint: give dovetail the target itself if you trust it"
    )


def test_a_link_of_the_hub_cache_is_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    folder_with(blobs, {"sha": safetensors_bytes(A)})
    (snapshot / "model.safetensors").symlink_to("../../blobs/sha")
    with open_checkpoint(snapshot) as store:
        assert list(store.entries) == ["a.weight"]


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", {"config.json": {}, "README.md": b"", "optimizer.pt": b"x"})
    assert refused(folder, MissingError) == (
        "there are no weights in this folder\n  folder  DIR/m\n  found   README.md, config.json\n\n"
        "hint: looked for *.safetensors, *.index.json, and *.bin, *.pth, *.pt, *.ckpt"
    )


def test_a_folder_with_several_models(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m", {"x.safetensors": safetensors_bytes(A), "y.safetensors": safetensors_bytes(B)}
    )
    assert refused(folder, UsageError) == (
        "this folder holds several weights files and no index says how they belong together\n  folder  DIR/m\n"
        "  found   x.safetensors, y.safetensors\n\nhint: give one of the files instead of the folder"
    )


def test_safetensors_win_over_torch_files_and_the_usual_name_over_others(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        {
            "model.safetensors": safetensors_bytes(A),
            "adapter.safetensors": safetensors_bytes(B),
            "pytorch_model.bin": b"x",
        },
    )
    assert findings(folder) == [
        (
            "other-files",
            "note",
            "only model.safetensors is read; beside it: adapter.safetensors, pytorch_model.bin",
        )
    ]


def test_shards_that_an_index_does_not_name_are_named(tmp_path: Path) -> None:
    """What is left of another download; a second container of the same model is usual."""
    shards = {f"model-{i:05d}-of-00002.safetensors": safetensors_bytes(one) for i, one in ((1, A), (2, B))}
    index = index_of(
        {name: f"model-{i:05d}-of-00002.safetensors" for i, one in ((1, A), (2, B)) for name in one}
    )
    files = {"model.safetensors.index.json": index, **shards}
    assert findings(folder_with(tmp_path / "whole", files)) == []
    left = {
        "model-00003-of-00003.safetensors": safetensors_bytes(A),
        "pytorch_model-00001-of-00001.bin": b"x",
    }
    message = "only the files that model.safetensors.index.json names are read; beside them: "
    assert findings(folder_with(tmp_path / "left", {**files, **left})) == [
        (
            "other-files",
            "warning",
            message + "model-00003-of-00003.safetensors, pytorch_model-00001-of-00001.bin",
        )
    ]
    torch_too = {**files, "pytorch_model.bin": b"x"}
    assert findings(folder_with(tmp_path / "torch", torch_too)) == [
        ("other-files", "note", f"{message}pytorch_model.bin")
    ]


def test_a_torch_folder_with_index_and_a_prismatic_run(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        {"pytorch_model.bin.index.json": index_of({"a": "pytorch_model-00001-of-00001.bin"}, 8)},
    )
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model-00001-of-00001.bin")
    with open_checkpoint(folder) as store:
        assert store.entries["a"].shape == (2,)
        assert store.read("a") == torch.ones(2).numpy().tobytes()
    run = folder_with(
        tmp_path / "run",
        {"checkpoints/step-5.pt": b"x", "config.json": {"model": {"arch_specifier": "linear"}}},
    )
    torch.save(
        {"model": {"projector": {"projector.weight": torch.ones(2)}}},
        run / "checkpoints/latest-checkpoint.pt",
    )
    with open_checkpoint(run) as store:
        assert list(store.entries) == ["model/projector/projector.weight"]
        assert store.side_file("config.json") == b'{"model": {"arch_specifier": "linear"}}'
    with open_checkpoint(run / "checkpoints/latest-checkpoint.pt") as store:
        assert store.side_file("config.json") == b'{"model": {"arch_specifier": "linear"}}'


def test_chunks_of_litgpt_are_read_together(tmp_path: Path) -> None:
    folder = tmp_path / "chunks" / "2nodes"
    folder.mkdir(parents=True)
    torch.save({"transformer.h.0.x": torch.ones(1)}, folder / "model_starter.pth")
    torch.save({"transformer.h.0.x": torch.ones(2)}, folder / "model_secondary0.pth")
    with open_checkpoint(folder) as store:
        assert store.format == "chunks"
        assert {n: e.shape for n, e in store.entries.items()} == {
            "model_secondary0.pth/transformer.h.0.x": (2,),
            "model_starter.pth/transformer.h.0.x": (1,),
        }


def test_a_name_in_two_shards_is_an_error(tmp_path: Path) -> None:
    shard = safetensors_bytes(A)
    folder = folder_with(tmp_path / "m", {f"model-0000{i}-of-00002.safetensors": shard for i in (1, 2)})
    assert findings(folder)[0] == (
        "duplicate-name",
        "error",
        "1 tensor of model-00002-of-00002.safetensors in another file too, first `a.weight`",
    )


LISTINGS: list[tuple[Any, str]] = [
    ({"a": "BF16"}, 'not a header listing: `a` is "BF16"\n  file      FILE\n  expected  [dtype, shape]'),
    (
        {"a": ["BF16", [2, -1]]},
        'not a header listing: `a` is ["BF16", [2, -1]]\n  file      FILE\n  expected  [dtype, shape]',
    ),
    (
        {"a": ["F12", [2]]},
        "not a header listing: unknown dtype `F12`\n  file    FILE\n  tensor  a\n\nhint: known dtypes: BOOL, ",
    ),
    (
        [1, 2],
        "not a header listing: the JSON is no object\n  file      FILE\n  expected  {name: [dtype, shape]}",
    ),
    (
        {"weight_map": {}},
        "the weight_map of the index is empty\n  file  NAME\n\nhint: this is a placeholder: whoever published it did not upload the weights",
    ),
    ({"weight_map": {"a": 3}}, "the index gives `a` the file 3\n  file      NAME\n  expected  a file name"),
    (
        {"weight_map": 3},
        'the index has no weight_map\n  file      NAME\n  expected  {"weight_map": {name: file}}',
    ),
]


@pytest.mark.parametrize(("content", "message"), LISTINGS)
def test_a_bad_listing_or_index(content: Any, message: str, tmp_path: Path) -> None:
    path = write_listing(tmp_path / "x.json", content)
    with pytest.raises(FormatError) as error:
        open_checkpoint(path)
    assert str(error.value).startswith(message.replace("FILE", str(path)).replace("NAME", "x.json"))


def test_listings_of_every_form(tmp_path: Path) -> None:
    forms = {
        "pairs": {"a.0.w": ["BF16", [2, 3]]},
        "objects": {"a.0.w": {"dtype": "torch.bfloat16", "shape": [2, 3]}},
        "shapes": {"a.0.w": [2, 3]},
        "files": {"x.pth": {"a.0.w": ["BF16", [2, 3]]}},
    }
    seen = {}
    for form, content in forms.items():
        with open_checkpoint(write_listing(tmp_path / f"{form}.json", content)) as store:
            seen[form] = [(name, entry.dtype, entry.shape) for name, entry in store.entries.items()]
    assert seen == {
        "pairs": [("a.0.w", "BF16", (2, 3))],
        "objects": [("a.0.w", "BF16", (2, 3))],
        "shapes": [("a.0.w", "", (2, 3))],
        "files": [("x.pth/a.0.w", "BF16", (2, 3))],
    }


NOT_CHECKPOINTS = {
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:6f34\nsize 180767\n",
        "this is a Git LFS pointer, not the file it stands for\n  file        FILE\n  stands_for  a file of 180,767 bytes\n\n"
        "hint: run `git lfs pull` in the repository, or download the file from its web page",
    ),
    "web page": (
        b"<!DOCTYPE html>\n<html><head><title>Sign in</title>",
        "this is a web page, not a checkpoint\n  file    FILE\n  begins  <!DOCTYPE html>\n\n"
        "hint: the server sent an error or log-in page; download again with a token or the raw link",
    ),
    "gzip": (b"\x1f\x8b" + bytes(64), "this file is compressed\n  file  FILE\n\nhint: unpack it first"),
    "text": (
        b"hello, this is text",
        "this is no checkpoint that dovetail knows\n  file    FILE\n  begins  b'hello, this is t'\n\n"
        "hint: dovetail reads safetensors, torch zip files (.pth .pt .bin .ckpt), indexes, header listings",
    ),
    "merge conflict": (
        b'{"weight_map": {\n<<<<<<< HEAD\n"a": "x"\n=======\n"a": "y"\n>>>>>>> other\n}}',
        "the JSON holds an unresolved Git merge conflict\n  file  FILE\n\nhint: take one side of the conflict and save it",
    ),
    "broken JSON": (
        b'{"a": ["BF16", [2]]} trailing',
        "not valid JSON: Extra data: line 1 column 22 (char 21)\n  file  FILE\n\nhint: fetch the file again, or repair it by hand",
    ),
}


@pytest.mark.parametrize("case", NOT_CHECKPOINTS)
def test_what_is_no_checkpoint_is_called_by_its_name(case: str, tmp_path: Path) -> None:
    content, message = NOT_CHECKPOINTS[case]
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert refused(path) == message.replace("FILE", "DIR/weights")


def test_nothing_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "nope", UsageError) == (
        "there is no `DIR/nope`\n\nhint: give a folder, a weights file, an index, a listing or hf://owner/name"
    )


def test_a_file_is_opened_by_its_content_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(safetensors_bytes(A))
    with open_checkpoint(path) as store:
        assert store.format == "safetensors"


def test_a_tensor_is_an_array_by_its_name(tmp_path: Path) -> None:
    values = torch.tensor([[1.5, -2.0, 0.0], [3.0, 1e-3, 7.0]])
    tensors = {"a": values, "b": values.bfloat16(), "c": torch.arange(4), "d": torch.tensor(2.5)}
    save_file(tensors, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as store:
        assert all(np.array_equal(store[name], one.float().numpy()) for name, one in tensors.items())
        assert (store["b"].dtype, store["c"].dtype, store["d"].shape) == (np.float32, np.int64, ())
        with pytest.raises(KeyError):
            store["e"]
