"""Two checkpoints compared: what is the same, what is not, and by how much."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import dovetail
from dovetail.compare.difference import Difference
from dovetail.errors import UsageError
from files import MODELS, header_of, plan_of, write_listing

Tensors = dict[str, torch.Tensor]
UP = "model.layers.1.mlp.up_proj.weight"


def made(path: Path, family: str = "qwen2", number: int = 0, **options: Any) -> Path:
    """A tiny checkpoint with random values."""
    dovetail.make(family, path, set=MODELS[family][number], **{"dtype": "float32", "seed": 5, **options})
    return path


def changed(source: Path, target: Path, change: Callable[[Tensors], None]) -> Path:
    """A copy whose tensors were changed; the config goes along."""
    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return target


def kinds(found: Difference) -> dict[str, list[str]]:
    """The names by kind of change."""
    names: dict[str, list[str]] = {}
    for change in found.changes:
        names.setdefault(change.kind, []).append(change.name)
    return names


@pytest.mark.parametrize("changes", [{"format": "pth"}, {"max_shard_size": 50_000}], ids=["pth", "shards"])
def test_containers_and_shards_do_not_matter(changes: dict[str, Any], tmp_path: Path) -> None:
    made(tmp_path / "a")
    dovetail.convert(tmp_path / "a", tmp_path / "b", **changes)
    found = dovetail.diff(tmp_path / "a", tmp_path / "b", values=True)
    assert found.verdict == f"same: {found.compared} tensors, equal to the byte"


def test_without_values_it_says_so(tmp_path: Path) -> None:
    made(tmp_path / "a", seed=1)
    made(tmp_path / "b", seed=2)
    header = dovetail.diff(tmp_path / "a", tmp_path / "b")
    assert header.is_same
    assert header.verdict.endswith("values not compared (--values reads them)")
    assert not dovetail.diff(tmp_path / "a", tmp_path / "b", values=True).is_same


def test_what_is_on_one_side_only_is_named(tmp_path: Path) -> None:
    made(tmp_path / "a")

    def change(tensors: Tensors) -> None:
        del tensors[UP]
        tensors["model.layers.1.mlp.extra.weight"] = torch.ones(3)

    changed(tmp_path / "a", tmp_path / "b", change)
    found = dovetail.diff(tmp_path / "a", tmp_path / "b")
    assert kinds(found) == {
        "only in A": ["text.blocks.1.mlp.up.weight"],
        "only in B": ["model.layers.1.mlp.extra.weight"],
    }
    assert found.verdict == "different: 1 tensor only in A, 1 tensor only in B"
    assert any("B has errors" in note for note in found.notes)


def test_shapes_and_dtypes_that_differ_are_named(tmp_path: Path) -> None:
    made(tmp_path / "a")

    def change(tensors: Tensors) -> None:
        tensors[UP] = tensors[UP].half()
        tensors["model.embed_tokens.weight"] = torch.cat([tensors["model.embed_tokens.weight"]] * 2)

    changed(tmp_path / "a", tmp_path / "b", change)
    found = dovetail.diff(tmp_path / "a", tmp_path / "b")
    assert {change.kind: (change.name, change.a, change.b) for change in found.changes} == {
        "shape": ("text.embed.weight", "F32 [211, 61]", "F32 [422, 61]"),
        "dtype": ("text.blocks.1.mlp.up.weight", "F32 [83, 61]", "F16 [83, 61]"),
    }


def test_values_are_measured(tmp_path: Path) -> None:
    """Against torch, in doubles."""
    made(tmp_path / "a")
    noise = torch.randn(83, 61, generator=torch.Generator().manual_seed(0)) * 1e-3

    def change(tensors: Tensors) -> None:
        tensors[UP] = tensors[UP] + noise

    changed(tmp_path / "a", tmp_path / "b", change)
    one = load_file(tmp_path / "a" / "model.safetensors")[UP].double()
    other = load_file(tmp_path / "b" / "model.safetensors")[UP].double()
    (change_,) = dovetail.diff(tmp_path / "a", tmp_path / "b", values=True).changes
    assert (change_.kind, change_.name) == ("values", "text.blocks.1.mlp.up.weight")
    assert change_.distance is not None
    assert change_.distance.max_abs == pytest.approx(float((one - other).abs().max()), rel=1e-12)
    relative = float((one - other).norm() / one.norm())
    assert change_.distance.relative == pytest.approx(relative, rel=1e-12)
    close = dovetail.diff(tmp_path / "a", tmp_path / "b", values=True, tolerance=relative * 1.001)
    assert (close.is_same, kinds(close)) == (True, {"close": ["text.blocks.1.mlp.up.weight"]})
    assert close.verdict.startswith("close: ")
    assert not dovetail.diff(tmp_path / "a", tmp_path / "b", values=True, tolerance=relative * 0.999).is_same


def test_a_nan_on_one_side_is_a_difference_and_on_both_is_none(tmp_path: Path) -> None:
    made(tmp_path / "a")

    def put(value: float, place: int) -> Callable[[Tensors], None]:
        def change(tensors: Tensors) -> None:
            tensors[UP].view(-1)[7] = math.nan
            tensors[UP].view(-1)[place] = value

        return change

    changed(tmp_path / "a", tmp_path / "nan", put(math.nan, 7))
    changed(tmp_path / "a", tmp_path / "inf", put(math.inf, 8))
    found = dovetail.diff(tmp_path / "a", tmp_path / "nan", values=True, tolerance=1e9)
    assert not found.is_same
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["groups"][0]["max_abs"] == "nan"
    found = dovetail.diff(tmp_path / "nan", tmp_path / "inf", values=True)
    assert [change.distance.max_abs for change in found.changes if change.distance] == [math.inf]
    assert dovetail.diff(tmp_path / "nan", tmp_path / "nan", values=True).is_same


def test_a_rounded_copy_is_close(tmp_path: Path) -> None:
    made(tmp_path / "a")
    dovetail.convert(tmp_path / "a", tmp_path / "b", dtype=["bfloat16"])
    assert not dovetail.diff(tmp_path / "a", tmp_path / "b", values=True).is_same
    found = dovetail.diff(tmp_path / "a", tmp_path / "b", values=True, tolerance=2**-8)
    assert found.is_same
    assert 0 < max(change.distance.relative for change in found.changes if change.distance) < 2**-8


def test_a_stored_copy_of_the_head_is_a_tie_and_another_head_is_not(tmp_path: Path) -> None:
    made(tmp_path / "a")
    embed = load_file(tmp_path / "a" / "model.safetensors")["model.embed_tokens.weight"]

    def with_head(value: torch.Tensor) -> Callable[[Tensors], None]:
        return lambda tensors: tensors.update({"lm_head.weight": value})

    changed(tmp_path / "a", tmp_path / "copy", with_head(embed.clone()))
    changed(tmp_path / "a", tmp_path / "other", with_head(embed + 1))
    for a, b in (("a", "copy"), ("copy", "a")):
        found = dovetail.diff(tmp_path / a, tmp_path / b, values=True)
        assert found.is_same
        assert any("equal to text.embed.weight" in note for note in found.notes)
    assert any(
        "--values compares it" in note for note in dovetail.diff(tmp_path / "a", tmp_path / "copy").notes
    )
    found = dovetail.diff(tmp_path / "a", tmp_path / "other", values=True)
    assert kinds(found) == {"only in B": ["head.weight"]}


def test_config_values_are_compared_with_their_sources(tmp_path: Path) -> None:
    made(tmp_path / "a")
    changed(tmp_path / "a", tmp_path / "b", lambda _: None)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    (tmp_path / "a" / "config.json").write_text(json.dumps({**config, "rope_theta": 7.0}))
    found = dovetail.diff(tmp_path / "a", tmp_path / "b")
    assert [(one.name, one.a.value, one.b.value, one.b.source) for one in found.settings] == [
        ("text.rope_theta", 7.0, 5.0, "config")
    ]
    assert found.verdict == "different: 1 config value"
    del config["rope_theta"]
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    found = dovetail.diff(tmp_path / "a", tmp_path / "b")
    assert found.is_same  # one side only assumes its value
    assert [one.is_assumed for one in found.settings] == [True]


def test_unknown_models_go_by_the_names_in_their_files(tmp_path: Path) -> None:
    write_listing(tmp_path / "a.json", {"x.0.w": ["F32", [2]], "y": ["F32", [3]]})
    write_listing(tmp_path / "b.json", {"x.0.w": ["F32", [2]], "z": ["F32", [3]]})
    found = dovetail.diff(tmp_path / "a.json", tmp_path / "b.json")
    assert (found.names, kinds(found)) == ("stored", {"only in A": ["y"], "only in B": ["z"]})
    assert "no known family" in found.notes[0]


def test_values_of_a_listing_cannot_be_compared(tmp_path: Path) -> None:
    write_listing(tmp_path / "a.json", header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf", "F32"))
    made(tmp_path / "b")
    assert dovetail.diff(tmp_path / "a.json", tmp_path / "b").is_same
    with pytest.raises(UsageError, match="holds names and shapes only"):
        dovetail.diff(tmp_path / "a.json", tmp_path / "b", values=True)


def test_two_families_are_compared_where_they_meet(tmp_path: Path) -> None:
    """A Qwen2 and the language model of a Qwen2-VL."""
    sizes = {name: size for name, size in MODELS["qwen2_vl"][0].items() if name.startswith("text.")}
    dovetail.make("qwen2", tmp_path / "a", set=sizes, seed=1)
    dovetail.make("qwen2_vl", tmp_path / "b", set=MODELS["qwen2_vl"][0], seed=1)
    found = dovetail.diff(tmp_path / "a", tmp_path / "b")
    assert found.have_other_families
    assert set(kinds(found)) == {"only in B"}
    with dovetail.open_checkpoint(tmp_path / "a") as store:
        assert found.compared == len(store.entries)


NUMBERS = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "U8": np.uint8}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_one_changed_element_is_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of any dtype, at any place, alone in its tensor."""
    folder = tmp_path_factory.mktemp("one")
    kind = data.draw(st.sampled_from(sorted(NUMBERS)))
    size = data.draw(st.integers(1, 40))
    array = np.arange(1, size + 1).astype(NUMBERS[kind])
    other = array.copy()
    place = data.draw(st.integers(0, size - 1))
    other[place] += 3
    for name, value in (("a", array), ("b", other)):
        save_file({"w": torch.from_numpy(value)}, folder / f"{name}.safetensors")
    (change,) = dovetail.diff(folder / "a.safetensors", folder / "b.safetensors", values=True).changes
    assert change.distance is not None
    exact = array.astype(np.float64)
    assert change.distance.max_abs == 3
    assert change.distance.relative == pytest.approx(3 / math.sqrt(float((exact**2).sum())))


def test_the_answer_in_json_names_every_tensor(tmp_path: Path) -> None:
    made(tmp_path / "a", seed=1)
    made(tmp_path / "b", seed=2)
    answer: Mapping[str, Any] = dovetail.diff(tmp_path / "a", tmp_path / "b", values=True).as_json()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert len(answer["changes"]) == answer["compared"] - answer["equal"]
    assert sum(group["count"] for group in answer["groups"]) == len(answer["changes"])
