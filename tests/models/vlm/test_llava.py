"""LLaVA and its CLIP tower equal transformers and the golden data in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.loading.load import load
from dovetail.models.taps import tapped
from dovetail.run.engine import generate
from every_layout import every_layout
from files import MODELS
from models.recorded import GOLDEN, recorded
from models.running import check_running
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

# tower: width, heads, feed-forward, layers, image, patch; text: width, heads, key heads, feed-forward
SHAPES = {
    "odd-heads": ((35, 5, 22, 2, 24, 8), (36, 3, 3, 44)),
    "one-key-head": ((26, 1, 61, 3, 36, 7), (40, 5, 1, 56)),
    "grouped": ((48, 3, 40, 4, 18, 6), (48, 6, 2, 61)),
}
IMAGE = 96


def original(shape: str, **more: Any) -> Any:
    vision, text = SHAPES[shape]
    names = (
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "num_hidden_layers",
        "image_size",
        "patch_size",
    )
    tower = dict(zip(names, vision, strict=True))
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    llama = dict(zip(names, text, strict=True))
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **tower},
        text_config={"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 97, **llama},
        image_token_index=IMAGE,
        **more,
    )
    return randomise(transformers.LlavaForConditionalGeneration(config))


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


IMAGES = [[image(40, 31)], [], [image(30, 70, 1), image(64, 64, 2)]]
ROWS = [[5, IMAGE, 17], [9, 8, 7, 3], [IMAGE, 4, IMAGE, 11]]


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("layer", [-2, -1])
@pytest.mark.parametrize("select", ["default", "full"])
def test_it_equals_transformers(shape: str, layer: int, select: str, tmp_path: Path) -> None:
    theirs = original(shape, vision_feature_layer=layer, vision_feature_select_strategy=select)
    mine = loaded(theirs, tmp_path)
    inputs = mine.prepare(ROWS, IMAGES)
    positions = (inputs["valid"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(
            input_ids=inputs["tokens"],
            attention_mask=inputs["valid"].long(),
            position_ids=positions,
            pixel_values=inputs["pixels"],
        )
        tower = theirs.model.vision_tower(inputs["pixels"], output_hidden_states=True)
        with tapped(mine, "projector") as taps:
            assert_near(mine(**inputs), expected.logits, inputs["valid"])
        assert_near(taps["projector"].flatten(0, 1), expected.image_hidden_states)
        with tapped(mine.vision, "pre_norm", "blocks.?") as taps:
            mine.vision(inputs["pixels"])
        names = ["pre_norm", *(f"blocks.{i}" for i in range(len(taps) - 1))]
        for name, state in zip(names, tower.hidden_states, strict=True):
            assert_near(taps[name], state)
    greedy = theirs.generate(
        input_ids=inputs["tokens"],
        attention_mask=inputs["valid"].long(),
        pixel_values=inputs["pixels"],
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
    )
    found = generate(mine, inputs, max_new_tokens=5)
    assert found == greedy[:, inputs["tokens"].shape[1] :].tolist()


@pytest.mark.parametrize("size", [(40, 48), (8, 24), (72, 25)])
def test_positions_are_interpolated(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = original("odd-heads")
    mine = loaded(theirs, tmp_path)
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.model.vision_tower(pixels, interpolate_pos_encoding=True)
        assert_near(mine.vision(pixels), expected.last_hidden_state)


def test_the_golden_model() -> None:
    io = recorded("llava")
    model = load(GOLDEN / "llava")
    tokens = torch.from_numpy(io["input_ids"])
    inputs = {"tokens": tokens, "valid": torch.ones_like(tokens, dtype=torch.bool)}
    inputs["pixels"] = torch.from_numpy(io["pixel_values"])
    with torch.no_grad():
        assert_near(model.features(inputs["pixels"])[0], torch.from_numpy(io["image_features"]))
        assert_near(model(**inputs), torch.from_numpy(io["logits"]))
        assert generate(model, inputs, max_new_tokens=16) == io["greedy"].tolist()


def test_every_way_of_running_it(tmp_path: Path) -> None:
    model = loaded(original("grouped"), tmp_path)
    check_running(model, ROWS, IMAGES, vocab=IMAGE)


def test_images_become_pixels(tmp_path: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = loaded(original("odd-heads"), tmp_path)
    images = [image(40, 31), image(30, 70, 1)]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    theirs = processor(images, return_tensors="pt")["pixel_values"]
    assert_near(model.prepare([[IMAGE, IMAGE]], [images])["pixels"], theirs)


def test_every_layout_is_the_same_model(tmp_path: Path) -> None:
    sizes = {**MODELS["llava"][0], "text.head_dim": 8}
    outputs = {}
    for layout, model in every_layout("llava", sizes, tmp_path):
        with torch.no_grad():
            outputs[layout] = model(**model.prepare([[3, 32000, 5]], [[image(35, 40)]]))
    assert len(outputs) == 6
    assert all(torch.equal(one, outputs["hf"]) for one in outputs.values())
