"""The three Qwen-VL families and the two text families inside them are told apart."""

import json
from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.declare.blueprint import blueprint
from dovetail.families import family
from dovetail.families.qwen3_vl import vision_layers
from files import MODELS, header_of, plan_of, write_listing

VISUAL = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3"}


def header(id: str, layout: str = "hf") -> dict[str, list[Any]]:
    return header_of(plan_of(id, MODELS[id][0]), layout)


@pytest.mark.parametrize("id", VISUAL)
def test_a_wrong_model_type_does_not_change_what_the_tensors_are(id: str, tmp_path: Path) -> None:
    path = write_listing(tmp_path / "x.json", header(id))
    for other in [*VISUAL, "qwen2", "qwen3"]:
        write_listing(tmp_path / "config.json", {"model_type": other})
        report = dovetail.inspect(path)
        assert (report.family, report.layout) == (id, "hf")
        expected = [f"config.json says `{other}`, and all tensors are those of {id}/hf: it is read as that"]
        assert [f.message for f in report.findings] == ([] if other == id else expected)


@pytest.mark.parametrize(("id", "text"), [("qwen2_vl", "qwen2"), ("qwen2_5_vl", "qwen2")])
def test_the_decoder_alone_is_the_text_family(id: str, text: str, tmp_path: Path) -> None:
    alone = {name: value for name, value in header(id).items() if not name.startswith("visual.")}
    assert dovetail.inspect(write_listing(tmp_path / "x.json", alone)).family == text


@pytest.mark.parametrize(
    ("id", "role"), [(id, role) for id in VISUAL for role in family(id).parts if role != "head"]
)
def test_a_model_without_one_of_its_parts_is_claimed_by_no_family(id: str, role: str, tmp_path: Path) -> None:
    plan = plan_of(id, MODELS[id][0])
    kept = [one for one in plan.stored(plan.family.layout("hf")) if one.role != role]
    report = dovetail.validate(
        write_listing(tmp_path / "x.json", {one.name: ["F32", list(one.shape)] for one in kept})
    )
    assert report.family is None
    assert report.closest is not None
    assert report.closest.family == id


def test_the_features_of_one_depth_less_contradict_the_config(tmp_path: Path) -> None:
    plan = plan_of("qwen3_vl", MODELS["qwen3_vl"][1])
    lost = {n: v for n, v in header_of(plan, "hf").items() if "deepstack_merger_list.2." not in n}
    path = write_listing(tmp_path / "x.json", lost)
    assert dovetail.validate(path).config["deepstack.levels"].value == 2
    write_listing(tmp_path / "config.json", {"vision_config": {"deepstack_visual_indexes": [0, 2, 4]}})
    errors = [f.message for f in dovetail.validate(path).findings if f.severity == "error"]
    assert errors == [
        "deepstack.levels is 2 in the weights (`model.visual.deepstack_merger_list.0.norm.weight`) and 3 in "
        "config.json: len(vision_config.deepstack_visual_indexes)"
    ]


SAID = {
    "qwen2_5_vl": {
        "vision.window_size": 56,
        "vision.full_attention_layers": [1],
        "tokens_per_second": 2,
        "mrope_section": [2, 3, 3],
        "text.rope_theta": 1e6,
        "merger.merge_area": 4,
        "image_token": 500,
        "video_token": 501,
    },
    "qwen3_vl": {
        "deepstack.vision_layers": [1, 2, 4],
        "deepstack.levels": 3,
        "vision.positions": 36,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
        "text.rope_theta": 5e6,
        "merger.merge_area": 4,
        "image_token": 500,
        "video_token": 501,
    },
}


@pytest.mark.parametrize("id", SAID)
@pytest.mark.parametrize("config", ["config", "config_v5"])
def test_what_only_a_config_says_is_read_from_old_and_new_ones(id: str, config: str, tmp_path: Path) -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden" / "layouts" / f"{id}.json").read_text())
    write_listing(tmp_path / "config.json", golden[config])
    report = dovetail.inspect(write_listing(tmp_path / "x.json", golden["hub"]))
    assert {name: report.config[name].value for name in SAID[id]} == SAID[id]


@pytest.mark.parametrize("sizes", MODELS["qwen3_vl"])
def test_a_made_model_says_twice_whether_its_head_is_tied(sizes: dict[str, Any], tmp_path: Path) -> None:
    """transformers 4.57 reads one flag, 5.x the other; without it the head is random."""
    dovetail.make("qwen3_vl", tmp_path / "made", set=sizes, sparse=True)
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    flags = config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    assert flags == ("head" not in sizes, "head" not in sizes)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("2b", [5, 11, 17]), ("4b", [5, 11, 17]), ("8b", [8, 16, 24]), ("32b", [8, 16, 24])],
)
def test_a_made_model_has_its_mergers_where_the_published_one_has_them(
    size: str, expected: list[int]
) -> None:
    one = family("qwen3_vl")
    assert vision_layers(blueprint(one, one.sizes[size])) == expected


@pytest.mark.parametrize("sizes", MODELS["qwen3_vl"])
def test_mergers_of_other_sizes_stand_behind_layers_that_exist(sizes: dict[str, Any]) -> None:
    layers = vision_layers(plan_of("qwen3_vl", sizes))
    assert sorted(set(layers)) == layers
    assert len(layers) == sizes["deepstack.levels"]
    assert set(layers) <= set(range(sizes["vision.layers"]))
