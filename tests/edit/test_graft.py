"""Graft: donors that transformers wrote, into models that transformers builds; interpolation as torch's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional as F

import dovetail
from dovetail.edit.graft import Filling, opened_graft
from dovetail.errors import CheckpointError, UsageError
from dovetail.weights.interpolate import cubic_weights
from files import MODELS, scoped
from run.tiny import DECODER
from run.tiny import VISION as SIZES_OF_TOWER

WIDTH, VISION = 48, 40


@pytest.fixture
def backbone(tmp_path: Path) -> dict[str, torch.Tensor]:
    """A Qwen2 with a tied head, saved by transformers."""
    torch.manual_seed(1)
    config = transformers.Qwen2Config(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=67,
        vocab_size=131,
        tie_word_embeddings=True,
    )
    model = transformers.Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path / "backbone")
    return dict(model.state_dict())


@pytest.fixture
def tower(tmp_path: Path) -> dict[str, torch.Tensor]:
    """A SigLIP tower of one layer more than the target wants and a smaller grid, saved by transformers."""
    torch.manual_seed(2)
    config = transformers.SiglipVisionConfig(
        hidden_size=VISION,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=61,
        image_size=20,
        patch_size=5,
    )
    model = transformers.SiglipVisionModel(config)
    model.save_pretrained(tmp_path / "tower")
    return dict(model.state_dict())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The config of a LLaVA-OneVision."""
    config = transformers.LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 67,
            "vocab_size": 131,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": VISION,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 61,
            "image_size": 30,
            "patch_size": 5,
            "vision_use_head": False,
        },
        tie_word_embeddings=True,
    )
    config.save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def certificate(folder: Path) -> dict[str, Any]:
    """The certificate of a folder."""
    values = json.loads((folder / "dovetail.json").read_text())
    assert isinstance(values, dict)
    return values


def test_transformers_loads_what_was_grafted_and_finds_the_donors_in_it(
    backbone: dict[str, torch.Tensor], tower: dict[str, torch.Tensor], target: Path, tmp_path: Path
) -> None:
    done = dovetail.graft(
        [tmp_path / "backbone", tmp_path / "tower"],
        tmp_path / "out",
        config=target,
        interpolate=True,
    )
    model, info = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(
        done.path, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    state = model.state_dict()
    for name, tensor in backbone.items():
        if name != "lm_head.weight":
            torch.testing.assert_close(
                state[f"model.language_model.{name.removeprefix('model.')}"], tensor, rtol=0, atol=0
            )
    theirs = {name: tensor for name, tensor in state.items() if name.startswith("model.vision_tower.")}
    for name, tensor in theirs.items():
        key = next(k for k in tower if name.endswith(k.removeprefix("vision_model.")))
        if "position_embedding" in name:
            grid = tower[key].T.reshape(1, VISION, 4, 4)
            wanted = F.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
            torch.testing.assert_close(tensor, wanted.reshape(VISION, 36).T, rtol=0, atol=1e-6)
        else:
            torch.testing.assert_close(tensor, tower[key], rtol=0, atol=0)
    assert certificate(tmp_path / "out")["init"] == {
        "vision.pos_embed.weight": "interpolated",
        "projector.fc1.weight": "random",
        "projector.fc1.bias": "random",
        "projector.fc2.weight": "random",
        "projector.fc2.bias": "random",
        "newline.image_newline": "random",
    }


def test_both_sides_are_accounted_for(
    backbone: dict[str, torch.Tensor], tower: dict[str, torch.Tensor], target: Path, tmp_path: Path
) -> None:
    donors = [tmp_path / "backbone", tmp_path / "tower"]
    with opened_graft(donors, target, filling=Filling(interpolate=True)) as graft:
        mine = [row for row in graft.rows if row.side == "target"]
        left = [row for row in graft.rows if row.side == "donor"]
        assert sum(row.leaves for row in mine) == len(graft.plan.tensors)
        taken = sum(row.leaves for row in mine if row.donor)
        stored = len(backbone) - 1 + len(tower)  # the head is tied; the pooling head's q, k, v are one tensor
        assert taken + sum(row.leaves for row in left) == stored + 4
        assert {row.template for row in left if "blocks" not in row.template} >= {"vision.pool.latent"}
        assert [row.first for row in mine if row.fate.startswith("tied")] == ["text.embed.weight"]


def test_a_grid_that_differs_needs_a_word(
    backbone: dict[str, torch.Tensor], tower: dict[str, torch.Tensor], target: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"is \[16, 40\] there and \[36, 40\] .* give --interpolate"):
        dovetail.graft([tmp_path / "backbone", tmp_path / "tower"], tmp_path / "out", config=target)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rows", [101, 150])
def test_token_rows_are_cut_or_filled(
    rows: int, backbone: dict[str, torch.Tensor], target: Path, tmp_path: Path
) -> None:
    dovetail.graft(
        [tmp_path / "backbone"],
        tmp_path / "out",
        config=target,
        resize_vocab=rows,
        only=["text"],
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["vocab_size"] == rows
    model = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    table = model.get_input_embeddings().weight
    kept = min(rows, 131)
    assert table.shape[0] == rows
    torch.testing.assert_close(table[:kept], backbone["model.embed_tokens.weight"][:kept], rtol=0, atol=0)
    if rows > kept:
        assert 0.01 < float(table[kept:].detach().std()) < 0.03
    tags = certificate(tmp_path / "out")["init"]
    assert tags["text.embed.weight"] == "resized"
    assert tags["vision.pos_embed.weight"] == "random"


def test_a_part_that_no_donor_has_is_an_error_if_it_was_named(
    backbone: dict[str, torch.Tensor], target: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no donor has anything for the part vision"):
        dovetail.graft([tmp_path / "backbone"], tmp_path / "out", config=target, only=["text", "vision"])


def test_a_family_alone_is_as_large_as_its_donors_and_says_what_they_say(tmp_path: Path) -> None:
    """Their settings and a head of their own too, and a tower without its last block."""
    backbone = {**scoped("text", DECODER), "head": "head", "text.rope_theta": 5e5}
    dovetail.make("qwen2", tmp_path / "lm", set=backbone)
    tower = {"vision": "siglip+pool", **scoped("vision", {**SIZES_OF_TOWER, "layers": 3})}
    dovetail.make("siglip", tmp_path / "tower", set=tower)
    donors = [tmp_path / "lm", tmp_path / "tower"]
    planned = dovetail.plan_graft(donors, config="llava_onevision", set={"variant": "alternating"})
    assert planned.notes[0].startswith("vision.layers = 2 of 3 (LLaVA-NeXT siglip_encoder.py leaves")
    dovetail.graft(donors, tmp_path / "out", config="llava_onevision", set={"variant": "alternating"})
    report = dovetail.inspect(tmp_path / "out")
    assert (report.variant, report.is_whole) == ("alternating", True)
    assert {name: report.config[name].value for name in ("vision.layers", "text.rope_theta")} == {
        "vision.layers": 2,
        "text.rope_theta": 5e5,
    }
    fresh = [row.template for row in planned.rows if row.fate == "fresh"]
    assert {name.partition(".")[0] for name in fresh} == {"projector", "newline"}
    assert "head.weight" in [row.template for row in planned.rows if row.fate == "copied"]
    longer = dovetail.plan_graft(donors, config="llava_onevision", set={"vision.layers": 3})
    assert longer.plan.config["vision.layers"].value == 3


def test_grafting_nothing_is_an_error(tower: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no donor has anything that the new model takes"):
        dovetail.graft([tmp_path / "tower"], tmp_path / "out", config="qwen2/qwen2-0.5b")


def test_misfits_are_one_line_for_each_part(backbone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with opened_graft([tmp_path / "backbone"], "qwen2/qwen2-0.5b") as graft:
        assert len(graft.problems) == 1
        assert "38 parameters of text do not fit" in graft.problems[0]


def test_a_donor_of_another_size_does_not_fit_and_does_not_size_what_it_meets(tmp_path: Path) -> None:
    """The merger is as wide as the tower of the config, whatever that of the donor meets."""
    dovetail.make("qwen2_vl", tmp_path / "small", set=MODELS["qwen2_vl"][0], sparse=True)
    with opened_graft([tmp_path / "small"], "qwen2_vl/2b") as graft:
        (said,) = [problem for problem in graft.problems if "parameters of merger do not fit" in problem]
        assert "`merger.norm.weight` is [66] there and [1280] in the new model" in said


def test_the_first_donor_wins(target: Path, tmp_path: Path) -> None:
    sizes = MODELS["qwen2"][0]
    for name, seed in (("a", 1), ("b", 2)):
        dovetail.make("qwen2", tmp_path / name, set=sizes, seed=seed)
    dovetail.make("qwen2", tmp_path / "like", set=sizes, seed=3)
    done = dovetail.graft([tmp_path / "a", tmp_path / "b"], tmp_path / "out", config=tmp_path / "like")
    assert done.fingerprint == dovetail.convert(tmp_path / "a", tmp_path / "same").fingerprint


def test_donors_may_be_in_any_layout(tmp_path: Path) -> None:
    sizes = MODELS["qwen3"][0]
    prints = set()
    for layout in ("hf", "litgpt", "litgpt-legacy"):
        dovetail.make("qwen3", tmp_path / layout, set=sizes, seed=1, layout=layout)
        done = dovetail.graft([tmp_path / layout], tmp_path / f"{layout}-out", config=tmp_path / layout)
        prints.add(done.fingerprint)
    assert len(prints) == 1


def test_an_older_model_with_a_head_of_its_own_gives_it(tmp_path: Path) -> None:
    """A policy's language model takes the decoder of a VLM, whatever role it has there."""
    dovetail.make("paligemma", tmp_path / "vlm", set=MODELS["paligemma"][0], seed=4)
    dovetail.make("pi0", tmp_path / "policy", layout="transformers", set=MODELS["pi0"][0], sparse=True)
    with opened_graft([tmp_path / "vlm"], tmp_path / "policy") as graft:
        fates = {(row.part, row.fate) for row in graft.rows if row.side == "target"}
        assert {("vlm", "copied"), ("vision", "copied"), ("expert", "fresh"), ("heads", "fresh")} <= fates
        assert not graft.problems


def test_tags_of_a_donor_are_carried_on(tmp_path: Path) -> None:
    sizes = MODELS["qwen2"][0]
    dovetail.make("qwen2", tmp_path / "a", set=sizes, seed=1)
    dovetail.graft([tmp_path / "a"], tmp_path / "b", config=tmp_path / "a", resize_vocab=300)
    dovetail.convert(tmp_path / "b", tmp_path / "c", to="litgpt")
    assert certificate(tmp_path / "c")["init"]["text.embed.weight"] == "resized"
    dovetail.graft([tmp_path / "c"], tmp_path / "d", config=tmp_path / "b")
    assert certificate(tmp_path / "d")["init"]["text.embed.weight"] == "resized"


def test_the_same_seed_gives_the_same_model(target: Path, tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "lm", set=MODELS["qwen2"][0], seed=1)
    dovetail.make("llava_onevision", tmp_path / "like", set=MODELS["llava_onevision"][0], sparse=True)
    prints = [
        dovetail.graft(
            [tmp_path / "lm"], tmp_path / f"out{i}", config=tmp_path / "like", seed=seed
        ).fingerprint
        for i, seed in enumerate((5, 5, 6))
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("qwen2/huge", "no published size `huge`"),
        ("gpt9/1b", "`gpt9/1b` is no file, and no family is called `gpt9`"),
        ("/nowhere/config.json", "`/nowhere/config.json` is no file, and no family is called"),
    ],
)
def test_a_target_that_is_not_known(config: str, message: str, tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "lm", set=MODELS["qwen2"][0])
    with pytest.raises(UsageError, match=message):
        dovetail.graft([tmp_path / "lm"], tmp_path / "out", config=config)


@pytest.mark.parametrize(
    ("filling", "message"),
    [
        ({"resize_vocab": 0}, "--resize-vocab 0 leaves no rows"),
        ({"resize_vocab": -4}, "--resize-vocab -4 leaves no rows"),
        ({"seed": -1}, "--seed -1 is no seed"),
    ],
)
def test_numbers_that_mean_nothing(filling: dict[str, Any], message: str, tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "lm", set=MODELS["qwen2"][0])
    with pytest.raises(UsageError, match=message):
        dovetail.graft([tmp_path / "lm"], tmp_path / "out", config="qwen2/qwen2-0.5b", **filling)


@pytest.mark.parametrize(("old", "new"), [(16, 27), (27, 16), (4, 4), (3, 7)])
def test_interpolation_is_torchs(old: int, new: int) -> None:
    table = np.random.default_rng(old).standard_normal((old, old, 5))
    weights = cubic_weights(old, new)
    mine = np.einsum("ya,xb,abc->yxc", weights, weights, table)
    grid = torch.from_numpy(table).permute(2, 0, 1)[None]
    theirs = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_grid_is_interpolated_as_torch_does_it(dtype: str, tmp_path: Path) -> None:
    """The table is larger than the block that files are read through."""
    sizes = {"vision.layers": 1, "vision.d_vision": 768, "vision.heads": 4, "vision.d_ff": 61}
    for name, positions in (("tower", 30 * 30), ("like", 37 * 37)):
        dovetail.make("siglip", tmp_path / name, set={**sizes, "vision.positions": positions}, dtype=dtype)
    dovetail.graft([tmp_path / "tower"], tmp_path / "out", config=tmp_path / "like", interpolate=True)
    tables = {}
    for name in ("tower", "out"):
        state = load_file(tmp_path / name / "model.safetensors")
        (tables[name],) = (tensor for key, tensor in state.items() if "position_embedding" in key)
    assert tables["tower"].nbytes > 1 << 20
    grid = tables["tower"].double().T.reshape(1, 768, 30, 30)
    wanted = F.interpolate(grid, size=(37, 37), mode="bicubic", align_corners=False).reshape(768, -1).T
    torch.testing.assert_close(tables["out"], wanted.to(tables["out"].dtype), rtol=1e-2, atol=1e-6)


def test_what_is_said_of_the_target_is_obeyed_or_refused(tmp_path: Path) -> None:
    """The variant, a setting and a name that there is not; the config that is written says the same."""
    model = MODELS["llava_onevision"][0]
    dovetail.make("llava_onevision", tmp_path / "donor", set=model, layout="lmms", dtype="float32")
    config = tmp_path / "donor" / "config.json"
    for given, message in (
        ({"variant": "foo"}, "there is no variant `foo`"),
        ({"rope_tehta": 1.0}, "llava_onevision has no size or setting `rope_tehta`; did you mean rope_theta"),
    ):
        with pytest.raises(UsageError, match=message):
            dovetail.graft([tmp_path / "donor"], tmp_path / "out", config=config, set=given)
    given = {"variant": "alternating", "rope_theta": 5.0}
    dovetail.graft([tmp_path / "donor"], tmp_path / "out", config=config, set=given, to="lmms")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["model_type"], written["rope_theta"]) == ("llava_qwen_with_alternating_attn", 5.0)
    report = dovetail.inspect(tmp_path / "out")
    assert (report.is_whole, report.variant, report.config["text.rope_theta"].value) == (
        True,
        "alternating",
        5.0,
    )
    dovetail.make("llava_onevision", tmp_path / "made", set={**model, "variant": "alternating"}, sparse=True)
    assert dovetail.inspect(tmp_path / "made").variant == "alternating"
