"""Qwen2-VL equals the recorded model, and transformers on tiny models of other shapes."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail.loading.load
from dovetail.errors import UsageError
from dovetail.inputs.mrope import mrope_positions
from dovetail.models.taps import tapped
from dovetail.run.engine import generate
from inputs.golden_images import noise
from models.recorded import GOLDEN, recorded, rows_of, tensor
from models.running import check_running
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def io() -> dict[str, np.ndarray]:
    return recorded("qwen2_vl", images="qwen2_vl")


@pytest.fixture(scope="module")
def model(io: dict[str, np.ndarray]) -> Any:
    settings = {name: int(io[f"proc_{name}"]) for name in ("min_pixels", "max_pixels")}
    return dovetail.loading.load.load(GOLDEN / "qwen2_vl", settings=settings)


IMAGES = {"one": [["A"]], "two": [["A", "B"]], "text": (), "leftpad": [["A"], ["B"]]}


@pytest.mark.parametrize("case", IMAGES)
def test_the_recorded_model(model: Any, io: dict[str, np.ndarray], case: str) -> None:
    mask = io[f"{case}.attention_mask"]
    images = [[io[f"image{name}"] for name in row] for row in IMAGES[case]]
    inputs = model.prepare(rows_of(io[f"{case}.input_ids"], mask), images)
    where = tensor(mask).bool()
    assert torch.equal(inputs["tokens"][where], tensor(io[f"{case}.input_ids"])[where])
    assert torch.equal(inputs["valid"], where)
    with torch.no_grad(), tapped(model, "vision", "merger", "text.norm") as taps:
        assert_near(model(**inputs), tensor(io[f"{case}.logits"]), where)
    if images:
        positions = tensor(io[f"{case}.position_ids"])
        assert torch.equal(inputs["positions"][:, where], positions[:, where])
        assert torch.equal(inputs["grids"], tensor(io[f"{case}.image_grid_thw"]))
        assert_near(taps["vision"], tensor(io[f"{case}.visual_pre_merger"]))
        assert_near(taps["merger"], tensor(io[f"{case}.visual"]))
    for chunk in (None, 3):
        found = generate(model, inputs, max_new_tokens=16, chunk=chunk)
        assert found == io[f"{case}.greedy"].tolist()


def test_one_placeholder_an_image_is_expanded(model: Any, io: dict[str, np.ndarray]) -> None:
    expanded = model.prepare([[9] + [500] * 6 + [4] + [500] * 14 + [8]], [[io["imageA"], io["imageB"]]])
    short = model.prepare([[9, 500, 4, 500, 8]], [[io["imageA"], io["imageB"]]])
    assert expanded.keys() == short.keys()
    assert all(torch.equal(short[name], expanded[name]) for name in short)


def test_positions_by_hand() -> None:
    """SYSTEMS T.4: text, text, start, an image of 2 x 3 features, end, text."""
    row = [1, 1, 2, *[9] * 6, 3, 1]
    assert mrope_positions(row, [(1, 4, 6)], 9, 2).tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7],
    ]


# vision: width, heads, feed-forward ratio, patch, merge; text: width, heads, key heads, sections; tied
SHAPES = {
    "odd-heads": ((24, 3, 2, 4, 2), (40, 5, 5, [2, 1, 1]), True),
    "grouped": ((20, 5, 3, 6, 3), (36, 6, 2, [1, 1, 1]), False),
    "one-key-head": ((28, 7, 1, 2, 2), (42, 3, 1, [3, 2, 2]), True),
}
IMAGE = 90


def original(shape: str) -> Any:
    (width, heads, ratio, patch, merge), (d, q, k, sections), tied = SHAPES[shape]
    config = transformers.Qwen2VLConfig(
        vision_config={
            "depth": 3,
            "embed_dim": width,
            "num_heads": heads,
            "mlp_ratio": ratio,
            "hidden_size": d,
            "patch_size": patch,
            "spatial_merge_size": merge,
        },
        text_config={
            "hidden_size": d,
            "num_hidden_layers": 2,
            "num_attention_heads": q,
            "num_key_value_heads": k,
            "intermediate_size": 44,
            "vocab_size": 97,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections},
        },
        image_token_id=IMAGE,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
        tie_word_embeddings=tied,
    )
    return randomise(transformers.Qwen2VLForConditionalGeneration(config))


# No row ends with an image: transformers 5.23 decodes from the last position of each axis instead of the largest.
ROWS = [[5, IMAGE, 17, IMAGE, 41], [8, 20, 7], [33, 4, 96, IMAGE, 3]]
PICTURES = [[noise(20, 33), noise(41, 12, seed=1)], [], [noise(19, 19, seed=2)]]


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: Any, tmp_path_factory: Any) -> tuple[Any, Any]:
    one = original(request.param)
    settings = {"min_pixels": 200, "max_pixels": 700}
    return one, loaded(one, tmp_path_factory.mktemp("model"), settings=settings)


def theirs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs as transformers calls them."""
    return {
        "input_ids": inputs["tokens"],
        "attention_mask": inputs["valid"].long(),
        "mm_token_type_ids": (inputs["tokens"] == IMAGE).int(),
        "pixel_values": inputs["pixels"],
        "image_grid_thw": inputs["grids"],
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_taps(pair: tuple[Any, Any], side: str) -> None:
    inputs = pair[1].prepare(ROWS, PICTURES, pad=side)
    names = ["vision.blocks.?", "vision", "merger", "text.blocks.?", "text.norm"]
    with torch.no_grad():
        expected = pair[0](**theirs(inputs), output_hidden_states=True)
        seen = pair[0].model.visual(inputs["pixels"], inputs["grids"], output_hidden_states=True)
        with tapped(pair[1], *names) as taps:
            logits = pair[1](**inputs)
    assert_near(logits, expected.logits, inputs["valid"])
    assert_near(taps["vision"], seen.last_hidden_state)
    assert_near(taps["merger"], seen.pooler_output)
    for i in range(2):
        assert_near(taps[f"vision.blocks.{i}"], seen.hidden_states[i + 1])
    for name, state in zip(["text.blocks.0", "text.norm"], expected.hidden_states[1:], strict=True):
        assert_near(taps[name], state, inputs["valid"])


def test_greedy_tokens(pair: tuple[Any, Any]) -> None:
    inputs = pair[1].prepare(ROWS, PICTURES)
    expected = pair[0].generate(**theirs(inputs), max_new_tokens=6, do_sample=False)
    found = generate(pair[1], inputs, max_new_tokens=6)
    assert found == expected[:, inputs["tokens"].shape[1] :].tolist()


def test_every_way_of_running(pair: tuple[Any, Any]) -> None:
    check_running(pair[1], ROWS, PICTURES, vocab=IMAGE)


def test_inputs_that_do_not_fit_are_refused(model: Any, io: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError) as error:
        model.prepare([[5, 500, 500, 7]], [[io["imageA"]]])
    assert str(error.value) == (
        "a row holds token 500 2 times\n"
        "  expected  1 (one for each image) or 6 (one for each feature)\n\n"
        "hint: put the image token once where each image belongs"
    )
    with pytest.raises(UsageError, match="images are given for 1 rows, there are 2"):
        model.prepare([[500], [3]], [[io["imageA"]]])
    with pytest.raises(UsageError, match="a row holds token 501, a video; videos are not written here"):
        model.prepare([[5, 501]])
    inputs = model.prepare([[5, 7]])
    with pytest.raises(UsageError, match="the image tokens do not match the images"):
        model(**{**inputs, "tokens": torch.tensor([[5, 500]])})
