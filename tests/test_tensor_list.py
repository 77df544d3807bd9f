"""`ls`: every tensor by its own name and the canonical one, folded where layers are equal, with its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dovetail
from commands import dovetail as run
from dovetail.checkpoint import opened
from dovetail.errors import CheckpointError, UsageError, WriteError
from dovetail.explain.leaves import leaf_names
from dovetail.render.tensor_page import pattern
from files import MODELS, header_of, plan_of, write_listing
from homes import homes

SIZES = {
    "text.layers": 3,
    "text.d_model": 16,
    "text.q_heads": 4,
    "text.kv_heads": 2,
    "text.head_dim": 4,
    "text.d_ff": 24,
    "text.vocab": 40,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ls")
    dovetail.make("qwen2", folder / "litgpt", layout="litgpt", set=SIZES)
    dovetail.convert(folder / "litgpt", folder / "hf", to="hf", max_shard_size=8000)
    return folder


def test_every_leaf_of_every_family_is_listed_once(tmp_path: Path) -> None:
    for family, models in MODELS.items():
        plan = plan_of(family, models[0])
        for layout in {*homes(family, 0)[:1], *homes(family, 0)[-1:]}:
            path = write_listing(tmp_path / "x.json", header_of(plan, layout))
            with opened(path) as found:
                if found.report.family is None:
                    continue  # one that several families share
                names = sorted(leaf_names(found.explanation))
            rows = dovetail.ls(path)
            assert [row.name for row in rows] == list(json.loads(path.read_text()))
            assert sorted(name for row in rows for name in row.canonical) == names
            assert all(row.canonical or row.note for row in rows)


def test_a_tensor_that_joins_leaves_says_all_of_them(folder: Path) -> None:
    [row] = dovetail.ls(folder / "litgpt", "*.h.1.attn.qkv.weight")
    assert row == dovetail.TensorRow(
        "transformer.h.1.attn.qkv.weight",
        tuple(f"text.blocks.1.attn.{one}.weight" for one in "qkv"),
        "text",
        "BF16",
        (32, 16),
        "lit_model.pth",
    )
    assert dovetail.ls(folder / "litgpt", "text.blocks.1.attn.k.weight") == [row]


def test_equal_layers_are_one_line_and_a_layer_that_differs_is_its_own(folder: Path, tmp_path: Path) -> None:
    lines = run("ls", folder / "hf", "*mlp.up*").out.splitlines()
    assert lines[1].split("  ")[:2] == [
        "model.layers.{0-2}.mlp.up_proj.weight",
        "text.blocks.{0-2}.mlp.up.weight",
    ]
    header = header_of(plan_of("qwen2", SIZES), "hf")
    header["model.layers.1.mlp.up_proj.weight"] = ["F32", [24, 16]]
    listing = write_listing(tmp_path / "x.json", header)
    names = [line.split()[0] for line in run("ls", listing, "*mlp.up*").out.splitlines()[1:3]]
    assert names == ["model.layers.{0,2}.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    assert len(run("ls", listing, "*mlp.up*", "--all").out.splitlines()) == 6


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["a.0.b"], "a.0.b"),
        (["a.0.b", "a.1.b"], "a.{0-1}.b"),
        (["a.0.b", "a.2.b", "a.3.b", "a.4.b"], "a.{0,2-4}.b"),
        ([f"h.{i}.e.{j}.w" for i in range(4) for j in range(8)], "h.{0-3}.e.{0-7}.w"),
        (["h.0.mlp.0.w", "h.1.mlp.0.w"], "h.{0-1}.mlp.0.w"),
        (["a", "a"], "a"),
    ],
)
def test_names_that_differ_in_indices_are_one_pattern(names: list[str], folded: str) -> None:
    assert pattern(names) == folded


def test_what_no_part_knows_has_a_note(tmp_path: Path) -> None:
    header = header_of(plan_of("qwen2", SIZES), "hf") | {"odd.weight": ["F32", [2]]}
    [row] = dovetail.ls(write_listing(tmp_path / "x.json", header), "odd.*")
    assert (row.canonical, row.part, row.note) == ((), None, "fits nothing")
    [row] = dovetail.ls(write_listing(tmp_path / "y.json", {"odd.weight": ["F32", [2]]}))
    assert (row.canonical, row.part, row.note) == ((), None, None)
    save_file({"odd": torch.zeros(2), "state": torch.zeros(3)}, tmp_path / "z.safetensors")
    assert [row.file for row in dovetail.ls(tmp_path / "z.safetensors")] == ["z.safetensors"] * 2


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "int8", "bool"]
)
def test_numbers_are_those_of_torch(dtype: str, tmp_path: Path) -> None:
    values = torch.randn(1000, 700, generator=torch.Generator().manual_seed(0)) * 3 + 1000 * (
        dtype == "float64"
    )
    values = values.to(getattr(torch, dtype))
    save_file({"w": values}, tmp_path / "x.safetensors")
    [row] = dovetail.ls(tmp_path / "x.safetensors", stats=True)
    wide = values.double()
    assert row.stats is not None
    assert (row.stats.min, row.stats.max) == (wide.min().item(), wide.max().item())
    assert row.stats.mean == pytest.approx(wide.mean().item(), rel=1e-9, abs=1e-12)
    assert row.stats.std == pytest.approx(wide.std(correction=0).item(), rel=1e-9)
    assert (row.stats.zeros, row.stats.nan, row.stats.infinite) == (int((wide == 0).sum()), 0, 0)


def test_what_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    values = torch.tensor([1.0, torch.nan, -torch.inf, 0.0, torch.inf, 3.0])
    tensors = {"a": values, "b": torch.tensor([torch.nan]), "c": torch.zeros(0), "d": torch.zeros(2).cfloat()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = {row.name: row.stats for row in dovetail.ls(tmp_path / "x.safetensors", stats=True)}
    assert found["a"] is not None
    assert found["a"].as_json() == {
        "min": 0.0,
        "max": 3.0,
        "mean": 4 / 3,
        "std": pytest.approx(np.std([1, 0, 3])),
        "zeros": 1,
        "nan": 1,
        "infinite": 2,
    }
    for name, nan in (("b", 1), ("c", 0)):
        assert found[name] == (None, None, None, None, 0, nan, 0)
    assert found["d"] is None
    columns = run("ls", tmp_path / "x.safetensors", "a", "--stats").out.splitlines()
    assert columns[1].split() == ["a", "F32", "6", "0", "3", "1.333", "1.247", "1", "1", "2"]


def test_one_tensor_or_leaf_is_saved_for_numpy(folder: Path, tmp_path: Path) -> None:
    stored = torch.load(folder / "litgpt" / "lit_model.pth")["transformer.h.1.attn.qkv.weight"].float()
    answer = run("ls", folder / "litgpt", "*.h.1.attn.qkv.weight", "--save", "a.npy", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "wrote a.npy\n")
    assert np.array_equal(np.load(tmp_path / "a.npy"), stored.numpy())
    dovetail.ls(folder / "litgpt", "text.blocks.1.attn.k.weight", save=tmp_path / "k.npy")
    with opened(folder / "hf") as other:
        k = other.store["model.layers.1.self_attn.k_proj.weight"]
    assert np.array_equal(np.load(tmp_path / "k.npy"), k)
    with pytest.raises(WriteError, match="is there already"):
        dovetail.ls(folder / "litgpt", "text.blocks.1.attn.k.weight", save=tmp_path / "k.npy")


def test_what_cannot_be_saved_or_found_says_why(folder: Path, tmp_path: Path) -> None:
    for words, message in {
        ("*mlp*", "a.npy"): "--save writes one tensor, and 9 are called",
        ("model.norm.weight", "a.txt"): "`a.txt` is no name for one array",
        ("model.norms.weight", None): "no tensor is called `model.norms.weight`",
    }.items():
        with pytest.raises(UsageError, match=message) as refusal:
            dovetail.ls(folder / "hf", words[0], save=words[1])
        assert refusal.value.hint
    assert "`model.norm.weight`" in (refusal.value.hint or "")
    listing = write_listing(tmp_path / "x.json", header_of(plan_of("qwen2", SIZES), "hf"))
    with pytest.raises(CheckpointError, match="holds no values"):
        dovetail.ls(listing, "model.norm.weight", stats=True)
    with pytest.raises(CheckpointError, match="holds no values"):
        dovetail.ls(listing, "model.norm.weight", save=tmp_path / "b.npy")
    assert not (tmp_path / "b.npy").exists()


def test_json_has_every_tensor_by_itself(folder: Path) -> None:
    rows = json.loads(run("ls", folder / "hf", "--json").out)
    assert len(rows) == len(dovetail.ls(folder / "hf"))
    assert list(rows[0]) == ["name", "canonical", "part", "dtype", "shape", "file", "note", "stats"]
    assert {row["file"] for row in rows} == {path.name for path in (folder / "hf").glob("*.safetensors")}
