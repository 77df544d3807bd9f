"""LLaVA with other towers, decoders, projectors and feature layers equals transformers, and comes back to the byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import UsageError
from dovetail.run.engine import generate
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 24,
    "patch_size": 8,
}
CLIP = {"model_type": "clip_vision_model", **SIZES}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **SIZES}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
IMAGE = 96
# tower, decoder, and what a config says beside them
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "third-last": (CLIP, "llama", {"vision_feature_layer": -3}),
    "positive": (CLIP, "llama", {"vision_feature_layer": 1, "vision_feature_select_strategy": "full"}),
    "embeddings": (CLIP, "llama", {"vision_feature_layer": [0, 1]}),
    "list": (CLIP, "llama", {"vision_feature_layer": [-2, 1]}),
    "list-full": (
        CLIP,
        "llama",
        {"vision_feature_layer": [-4, -1, 2], "vision_feature_select_strategy": "full"},
    ),
    "siglip": (SIGLIP, "llama", {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}),
    "siglip-default": (SIGLIP, "llama", {}),
    "siglip-head": ({**SIGLIP, "vision_use_head": True}, "llama", {"vision_feature_select_strategy": "full"}),
    "qwen2": (CLIP, "qwen2", {}),
    "qwen3": (CLIP, "qwen3", {}),
    "gemma": (CLIP, "gemma", {}),
    "mistral": (CLIP, "mistral", {}),
    "plain": (CLIP, "llama", {"multimodal_projector_bias": False}),
    "all": (
        SIGLIP,
        "qwen2",
        {
            "vision_feature_layer": [-1, 2],
            "vision_feature_select_strategy": "full",
            "multimodal_projector_bias": False,
        },
    ),
}


def original(name: str) -> Any:
    vision, text, more = CASES[name]
    config = transformers.LlavaConfig(
        vision_config=dict(vision),
        text_config={"model_type": text, **TEXT, **({"head_dim": 8} if text == "gemma" else {})},
        image_token_index=IMAGE,
        tie_word_embeddings=False,
        **more,
    )
    return randomise(transformers.LlavaForConditionalGeneration(config))


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", [name for name in CASES if name != "gemma"])
def test_it_equals_transformers(name: str, tmp_path: Path) -> None:
    theirs = original(name)
    mine = loaded(theirs, tmp_path)
    report = dovetail.validate(tmp_path)
    assert (report.family, report.layout, report.is_whole) == ("llava", "hf-5.23", True)
    inputs = mine.prepare([[5, IMAGE, 17], [9, 8]], [[image(40, 31)], []])
    asked = {
        "input_ids": inputs["tokens"],
        "attention_mask": inputs["valid"].long(),
        "pixel_values": inputs["pixels"],
    }
    positions = (inputs["valid"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        assert_near(mine(**inputs), theirs(**asked, position_ids=positions).logits, inputs["valid"])
    greedy = theirs.generate(**asked, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert generate(mine, inputs, max_new_tokens=4) == greedy[:, inputs["tokens"].shape[1] :].tolist()


def test_a_gemma_is_whole_and_not_run(tmp_path: Path) -> None:
    """transformers 4.57 and 5.23 compute different logits of it."""
    original("gemma").save_pretrained(tmp_path)
    report = dovetail.validate(tmp_path, forward=True)
    assert (report.is_whole, report.parts["text"].kind) == (True, "gemma")
    assert [one.code for one in report.findings] == ["not-run"]
    with pytest.raises(UsageError, match="transformers 4 multiplies the features of images by"):
        dovetail.load(tmp_path)


@pytest.mark.parametrize("name", ["all", "siglip-head", "list-full", "gemma"])
def test_it_comes_back_to_the_byte(name: str, tmp_path: Path) -> None:
    original(name).save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "there", to="hf-4.52")
    for layout in ("there", "llava"):
        dovetail.convert(tmp_path / "saved", tmp_path / "llava", to="llava", overwrite=True)
        report = dovetail.validate(tmp_path / layout)
        assert [one.message for one in report.findings if one.severity == "error"] == []
    dovetail.convert(tmp_path / "there", tmp_path / "back", to="hf-5.23")
    saved, back = tmp_path / "saved", tmp_path / "back"
    before, after = load_file(saved / "model.safetensors"), load_file(back / "model.safetensors")
    assert {name: one.numpy().tobytes() for name, one in after.items()} == {
        name: one.numpy().tobytes() for name, one in before.items()
    }


@pytest.mark.parametrize("kinds", [{"vision": "siglip"}, {"text": "qwen2", "projector": "mlp2x_gelu_plain"}])
def test_what_is_made_opens_in_transformers(kinds: dict[str, str], tmp_path: Path) -> None:
    sizes = {
        "vision.layers": 2,
        "vision.d_vision": 24,
        "vision.heads": 3,
        "vision.d_ff": 31,
        "vision.patch": 8,
        "vision.positions": 9 if "vision" in kinds else 10,
        "text.layers": 2,
        "text.d_model": 32,
        "text.q_heads": 4,
        "text.kv_heads": 2,
        "text.head_dim": 8,
        "text.d_ff": 29,
        "text.vocab": 97,
    }
    dovetail.make("llava", tmp_path, set={**sizes, **kinds}, dtype="float32", layout="hf-5.23")
    load = transformers.LlavaForConditionalGeneration.from_pretrained
    theirs, said = load(tmp_path, output_loading_info=True)
    assert {key: len(names) for key, names in said.items()} == dict.fromkeys(said, 0)
    mine = dovetail.load(tmp_path, settings={"image_token": IMAGE})
    inputs = mine.prepare([[5, IMAGE, 17]], [[image(24, 24)]])
    theirs.config.image_token_id = IMAGE
    with torch.no_grad():
        expected = theirs.eval()(input_ids=inputs["tokens"], pixel_values=inputs["pixels"]).logits
        assert_near(mine(**inputs), expected)


def test_a_projector_that_lost_both_biases_is_not_whole(tmp_path: Path) -> None:
    original("third-last").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(
        {name: one for name, one in load_file(file).items() if "projector" not in name or "bias" not in name},
        file,
    )
    report = dovetail.validate(tmp_path)
    assert not report.is_whole
    assert "2 of 4 tensors of projector are missing" in "; ".join(one.message for one in report.findings)


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    original("list").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="feature_layer cannot be 4") as error:
        dovetail.load(tmp_path, settings={"feature_layer": 4})
    assert "states of a tower of 3 blocks: -4 to 3" in str(error.value)
    with pytest.raises(UsageError, match="features of -2 are 1, the projector joins 2"):
        dovetail.load(tmp_path, settings={"feature_layer": -2})


ONEVISION: dict[str, dict[str, Any]] = {
    "last": {"vision_feature_layer": -1},
    "third-last": {"vision_feature_layer": -3},
    "positive": {"vision_feature_layer": 2},
    "list": {"vision_feature_layer": [-2, -1], "multimodal_projector_bias": False},
}


def onevision(**more: Any) -> Any:
    config = transformers.LlavaOnevisionConfig(
        vision_config=dict(SIGLIP),
        text_config={"model_type": "qwen2", **TEXT},
        image_grid_pinpoints=[[24, 24], [24, 48]],
        image_token_index=95,
        video_token_index=94,
        **more,
    )
    return randomise(transformers.LlavaOnevisionForConditionalGeneration(config))


@pytest.mark.parametrize("name", ONEVISION)
def test_onevision_equals_transformers(name: str, tmp_path: Path) -> None:
    theirs = onevision(**ONEVISION[name])
    mine = loaded(theirs, tmp_path)
    assert dovetail.validate(tmp_path).is_whole
    inputs = mine.prepare([[5, 95, 17]], [[image(24, 48)]])
    with torch.no_grad():
        expected = theirs(
            input_ids=inputs["tokens"],
            pixel_values=inputs["pixels"][None],
            image_sizes=inputs["sizes"],
            batch_num_images=torch.tensor([1]),
        ).logits
        assert_near(mine(**inputs), expected)


def test_onevision_without_its_first_patch_is_refused(tmp_path: Path) -> None:
    """transformers counts the patches of a square and finds one too few."""
    theirs = onevision(vision_feature_select_strategy="default")
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="features `default` are not written here: the first patch"):
        dovetail.load(tmp_path)
    assert dovetail.validate(tmp_path).is_whole
    pixels, sizes = torch.zeros(1, 2, 3, 24, 24), torch.tensor([[24, 24]])
    with pytest.raises(ValueError, match="number of patches is not consistent"):
        theirs(input_ids=torch.full((1, 20), 95), pixel_values=pixels, image_sizes=sizes)
