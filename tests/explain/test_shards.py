"""A shard that is not here is one cause: the family is that of the index, and the shard and what it holds are said."""

import json
from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.errors import CheckpointError
from files import MODELS, header_of, plan_of, safetensors_bytes, write_listing

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 180767\n"


def shard(number: int) -> str:
    return f"model-{number:05d}-of-00003.safetensors"


def folder_of(tmp_path: Path, here: dict[int, str], id: str = "qwen2_vl") -> tuple[Path, dict[str, Any]]:
    """A model in three shards (vision; layers 0 and 1 of the text; the rest), of which those in `here` are here:
    whole, or as a pointer."""
    header = header_of(plan_of(id, {**MODELS[id][0], "head": "head"}), "hf")
    places = {
        name: shard(
            1 if name.startswith("visual") else 2 if ".layers.0." in name or ".layers.1." in name else 3
        )
        for name in header
    }
    write_listing(tmp_path / INDEX, {"metadata": {"total_size": 0}, "weight_map": places})
    for number, what in here.items():
        tensors = {name: value for name, value in header.items() if places[name] == shard(number)}
        (tmp_path / shard(number)).write_bytes(safetensors_bytes(tensors) if what == "whole" else POINTER)
    return tmp_path, header


def errors(path: Path) -> list[str]:
    return [
        f"{one.code}: {one.message}" for one in dovetail.validate(path).findings if one.severity == "error"
    ]


@pytest.mark.parametrize("has_config", [True, False])
def test_one_lost_shard_is_one_error(has_config: bool, tmp_path: Path) -> None:
    folder, header = folder_of(tmp_path, {1: "whole", 3: "whole"})
    if has_config:
        write_listing(folder / "config.json", {"model_type": "qwen2_vl"})
    lost = sum(".layers.0." in name or ".layers.1." in name for name in header)
    report = dovetail.validate(folder)
    assert (report.family, report.layout, report.is_whole) == ("qwen2_vl", "hf", False)
    assert report.title == f"Qwen2-VL, {lost} of {len(header)} tensors missing"
    assert errors(folder) == [
        f"missing-shard: {shard(2)} is not here; by {INDEX} it holds {lost} tensors of text"
    ]
    assert report.findings[0].code == "missing-shard"
    assert len(report.findings[0].tensors) == lost
    assert report.config["text.layers"].value == 3
    text = report.parts["text"]
    assert (text.expected, text.present) == (text.present + lost, text.present)
    assert report.tensors == report.accounting.used == len(header) - lost
    for verb in (dovetail.load, lambda path: dovetail.convert(path, tmp_path / "out", to="hf", allow=["*"])):
        with pytest.raises(CheckpointError, match="is not here; by model"):
            verb(folder)


def test_lost_shards_with_a_whole_part_and_the_head(tmp_path: Path) -> None:
    folder, header = folder_of(tmp_path, {2: "whole"})
    tower, rest = (sum(name.startswith(one) for name in header) for one in ("visual.", ""))
    merger = sum(name.startswith("visual.merger.") for name in header)
    layers = sum(".layers.0." in name or ".layers.1." in name for name in header)
    assert errors(folder) == [
        f"missing-shard: 2 of 3 shards are not here: {shard(1)}, {shard(3)}; by {INDEX} they hold "
        f"{rest - layers} tensors ({tower - merger} of vision, {merger} of merger, "
        f"{rest - layers - tower - 1} of text, 1 of head)"
    ]
    assert dovetail.validate(folder).family == "qwen2_vl"


def test_a_tensor_that_no_shard_holds_is_an_error_of_its_own(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, {1: "whole", 3: "whole"})
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    write_listing(folder / INDEX, index)
    assert [one.split(":")[0] for one in errors(folder)] == ["missing-shard", "incomplete", "missing"]


def test_an_index_without_shards_says_the_same_as_its_folder(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, {})
    said = [f"missing-shard: complete by name; none of the 3 shards of {INDEX} is here"]
    assert errors(folder) == errors(folder / INDEX) == said
    for path in (folder, folder / INDEX):
        report = dovetail.validate(path)
        assert (report.family, report.is_whole) == ("qwen2_vl", False)


def test_a_clone_without_lfs_is_its_family_and_pointers(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, dict.fromkeys((1, 2, 3), "pointer"))
    report = dovetail.validate(folder)
    assert report.family == "qwen2_vl"
    assert errors(folder) == [
        f"missing-shard: complete by name; none of the 3 shards of {INDEX} is here (all are Git LFS pointers)"
    ]
    assert report.findings[0].hint == "run `git lfs pull` in the repository"


def test_an_unknown_model_with_a_lost_shard(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, {1: "whole", 3: "whole"})
    write_listing(folder / "config.json", {"model_type": "other_vl"})
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.1.extra.weight"] = shard(2)
    write_listing(folder / INDEX, index)
    report = dovetail.validate(folder)
    assert [one.code for one in report.findings] == ["unknown-family", "missing-shard"]
    assert report.findings[0].message.startswith(
        "config.json says `other_vl`, which dovetail does not know: "
    )
    assert report.accounting.unexplained == report.tensors
