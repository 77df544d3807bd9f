"""LLaVA-OneVision equals the recorded model, and transformers on tiny models of other shapes."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from dovetail.errors import UsageError
from dovetail.inputs.anyres import grid_of, most_tiles
from dovetail.inputs.tiles import pinpoints
from dovetail.models.masks import positions_of
from dovetail.models.taps import tapped
from dovetail.models.vlm.alternating import schedule
from dovetail.run.engine import generate
from inputs.golden_images import noise, table
from models.recorded import GOLDEN, recorded, tensor
from models.running import check_running
from parity import assert_near, loaded, randomise
from run.tiny import SIZES

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def io() -> dict[str, np.ndarray]:
    return recorded("llava_onevision", images="llava_onevision")


@pytest.fixture(scope="module")
def model() -> Any:
    return dovetail.load(GOLDEN / "llava_onevision")


@pytest.mark.parametrize("case", ["square", "wide", "tall", "big", "multi"])
def test_the_recorded_images(model: Any, io: dict[str, np.ndarray], case: str) -> None:
    names = ["square", "wide"] if case == "multi" else [case]
    inputs = model.prepare(io[f"{case}.input_ids"].tolist(), [[io[f"img_{name}"] for name in names]])
    assert torch.equal(inputs["tokens"], tensor(io[f"{case}.input_ids"]))
    with torch.no_grad():
        features = model.image_features(inputs["pixels"], inputs["sizes"])
        logits = model(**inputs)
    assert [len(one) for one in features] == io[f"{case}.n_features"].tolist()
    for i, one in enumerate(features):
        assert_near(one, tensor(io[f"{case}.features{i}"]))
    assert_near(logits[:, -12:], tensor(io[f"{case}.logits"]))
    for chunk in (None, 7):
        found = generate(model, inputs, max_new_tokens=16, chunk=chunk)
        assert found == io[f"{case}.greedy"].tolist()


def test_the_recorded_video(model: Any, io: dict[str, np.ndarray]) -> None:
    ids, frames = tensor(io["video.input_ids"]), tensor(io["video.pixel_values"][0])
    lengths = torch.tensor([len(frames)])
    with torch.no_grad():
        (features,) = model.video_features(frames, lengths)
        logits = model(tokens=ids, valid=torch.ones_like(ids).bool(), frames=frames, lengths=lengths)
    assert_near(features, tensor(io["video.features"]))
    assert_near(logits, tensor(io["video.logits"]))


def test_one_placeholder_an_image_is_expanded(model: Any, io: dict[str, np.ndarray]) -> None:
    image, video = io["img_wide"], np.stack([noise(30, 40)] * 3)
    whole = model.prepare([[4, *[500] * 84, 6, *[501] * 13, 8]], [[image, video]])
    short = model.prepare([[4, 500, 6, 501, 8]], [[image, video]])
    assert whole.keys() == short.keys() == {"tokens", "valid", "pixels", "sizes", "frames", "lengths"}
    assert all(torch.equal(whole[name], short[name]) for name in whole)


def test_numbers_of_features_are_the_recorded_ones() -> None:
    recorded = table("anyres_table")
    for height, width, *_, count in recorded["rows"]:
        grid = grid_of(height, width, resolutions=pinpoints(384), pixels=384, edge=27, most=9)
        assert 27 * 27 + grid.num_features == count, (height, width)


# tower: width, heads, patch, image, layer; decoder: width, heads, key heads, head width; most tiles
SHAPES = {
    "odd-heads": ((21, 3, 4, 16, -1), (26, 5, 5, 6), 9),
    "grouped": ((20, 5, 5, 17, -2), (24, 6, 3, 10), 2),
    "one-key-head": ((24, 2, 3, 16, -1), (35, 7, 1, 4), 1),
}
IMAGE, VIDEO = 90, 91


def original(shape: str) -> Any:
    (width, heads, patch, size, layer), (d, q, k, c), most = SHAPES[shape]
    config = transformers.LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": width,
            "num_hidden_layers": 3,
            "num_attention_heads": heads,
            "intermediate_size": 31,
            "patch_size": patch,
            "image_size": size,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": d,
            "num_hidden_layers": 5,
            "num_attention_heads": q,
            "num_key_value_heads": k,
            "head_dim": c,
            "intermediate_size": 44,
            "vocab_size": 97,
            "eos_token_id": None,
            "tie_word_embeddings": most > 1,
        },
        tie_word_embeddings=most > 1,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=layer,
        vision_aspect_ratio=f"anyres_max_{most}",
        image_grid_pinpoints=[[size * i, size * j] for i in range(1, 4) for j in range(1, 4)],
    )
    return randomise(transformers.LlavaOnevisionForConditionalGeneration(config))


CLIP = np.stack([noise(20, 30, seed=seed) for seed in range(3)])
ROWS = [[5, IMAGE, 17], [8, 20, 7], [33, IMAGE, 4, IMAGE, 95], [6, VIDEO, 3]]
PICTURES = [[noise(20, 61)], [], [noise(41, 12, seed=1), noise(19, 19, seed=2)], [CLIP]]


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: Any, tmp_path_factory: Any) -> tuple[Any, Any]:
    one = original(request.param)
    return one, loaded(one, tmp_path_factory.mktemp("model"))


def theirs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs as transformers calls them: all images with as many views, the last ones empty."""
    views = list(inputs["pixels"].split([len(inputs["pixels"]) - 2, 1, 1]))
    most = max(map(len, views))
    padded = [torch.cat([one, torch.zeros(most - len(one), *one.shape[1:])]) for one in views]
    return {
        "input_ids": inputs["tokens"],
        "attention_mask": inputs["valid"].long(),
        "position_ids": positions_of(inputs["valid"]),
        "pixel_values": torch.stack(padded),
        "image_sizes": torch.tensor([one.shape[:2] for row in PICTURES[:3] for one in row]),
        "batch_num_images": torch.tensor([1, 0, 2, 0]),
        "pixel_values_videos": inputs["frames"][None],
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_taps(pair: tuple[Any, Any], side: str) -> None:
    inputs = pair[1].prepare(ROWS, PICTURES, pad=side)
    given = theirs(inputs)
    with torch.no_grad():
        expected = pair[0](**given, output_hidden_states=True)
        names = ["pixel_values", "image_sizes", "batch_num_images"]
        seen = pair[0].model.get_image_features(**{name: given[name] for name in names}).pooler_output
        with tapped(pair[1], "text.blocks.?", "text.norm") as taps:
            logits = pair[1](**inputs)
        features = pair[1].image_features(inputs["pixels"], inputs["sizes"])
    assert_near(logits, expected.logits, inputs["valid"])
    for one, other in zip(features, seen, strict=True):
        assert_near(one, other)
    layers = [*(f"text.blocks.{i}" for i in range(4)), "text.norm"]
    for name, state in zip(layers, expected.hidden_states[1:], strict=True):
        assert_near(taps[name], state, inputs["valid"])


def test_greedy_tokens(pair: tuple[Any, Any]) -> None:
    inputs = pair[1].prepare(ROWS, PICTURES)
    given = {name: value for name, value in theirs(inputs).items() if name != "position_ids"}
    expected = pair[0].generate(**given, max_new_tokens=6, do_sample=False)
    found = generate(pair[1], inputs, max_new_tokens=6)
    assert found == expected[:, inputs["tokens"].shape[1] :].tolist()


@pytest.mark.parametrize("variant", ["base", "alternating", "alternating_cross"])
def test_every_way_of_running(variant: str, tmp_path: Any) -> None:
    model = loaded(original("grouped"), tmp_path, settings={"variant": variant})
    assert model.layer_masks == schedule(None, variant, 5)
    check_running(model, ROWS, PICTURES, vocab=IMAGE)


@pytest.mark.parametrize("image_size", [0, 20, 23])
def test_views_are_as_large_as_the_resolutions_say(image_size: int, tmp_path: Any) -> None:
    """As 378 pixels or none are said of 384, of which SigLIP's patches cover 378."""
    sizes = {**SIZES["llava_onevision"][0], "vision.patch": 5, "vision.positions": 16}
    settings = {
        "vision.image_size": image_size,
        "vision.heads": sizes["vision.heads"],
        "grid_pinpoints": [[23 * i, 23 * j] for i in (1, 2) for j in (1, 2)],
    }
    dovetail.make("llava_onevision", tmp_path / "lmms", layout="lmms", set=sizes, dtype="float32")
    model = dovetail.load(tmp_path / "lmms", settings=settings)
    inputs = model.prepare([[151646]], [[noise(46, 46)]])
    assert inputs["pixels"].shape == (5, 3, 23, 23)
    assert inputs["tokens"].shape == (1, 16 + 8 * 9)


def test_what_is_not_written_is_refused(model: Any, io: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="aspect_ratio `pad` is not written here"):
        most_tiles("pad")
    with pytest.raises(UsageError, match="feature_layer cannot be -9"):
        dovetail.load(GOLDEN / "llava_onevision", settings={"feature_layer": -9})
    other = dovetail.load(GOLDEN / "llava_onevision", settings={"grid_pinpoints": [[56, 60]]})
    with pytest.raises(UsageError, match=r"no whole number of tiles of 56 pixels covers \[56, 60\]"):
        other.prepare([[500]], [[noise(9, 9)]])
    with pytest.raises(UsageError, match="a row holds token 500 1 times"):
        model.prepare([[500, 501]], [[np.stack([noise(9, 9)] * 2)]])
    with pytest.raises(UsageError, match="not a decoded image"):
        model.prepare([[500]], [["picture.png"]])
