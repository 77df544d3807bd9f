"""PaliGemma equals the recorded model, and transformers on tiny models of other shapes."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from dovetail.errors import UsageError
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
    return recorded("paligemma", images="paligemma")


@pytest.fixture(scope="module")
def model() -> Any:
    return dovetail.load(GOLDEN / "paligemma")


def test_the_recorded_model(model: Any, io: dict[str, np.ndarray]) -> None:
    inputs = model.prepare(io["input_ids"].tolist(), [[io["imageA"]]])
    assert torch.equal(inputs["tokens"], tensor(io["input_ids"]))
    with torch.no_grad(), tapped(model, "projector") as taps:
        logits = model(**inputs)
    assert_near(logits, tensor(io["logits"]))
    assert float((logits - tensor(io["logits_no_token_type_causal_v5"])).abs().max()) > 0.1
    assert_near(taps["projector"], tensor(io["image_features"]))
    assert generate(model, inputs, max_new_tokens=16) == io["greedy"].tolist()


def test_the_recorded_batch(model: Any, io: dict[str, np.ndarray]) -> None:
    rows = rows_of(io["pad_input_ids"], io["pad_mask"])
    inputs = model.prepare(rows, [[io["imageA"]], [io["imageB"]]])
    with torch.no_grad():
        assert_near(model(**inputs), tensor(io["pad_logits"]), tensor(io["pad_mask"]).bool())
    assert generate(model, inputs, max_new_tokens=16) == io["pad_greedy"].tolist()


def test_the_recorded_answer(model: Any, io: dict[str, np.ndarray]) -> None:
    ids, prompt = io["train_ids"][0].tolist(), int((io["train_tt"] == 0).sum())
    inputs = model.prepare([ids[:prompt]], [[io["imageA"]]], suffixes=[ids[prompt:]])
    with torch.no_grad():
        logits = model(**inputs)
        loss = model.loss(inputs, tensor(io["train_labels"]))
    assert_near(logits, tensor(io["train_logits"]))
    assert_near(loss, tensor(io["train_loss"]))


# tower: width, heads, patch, image; decoder: width, heads, key heads, head width; the image's id
SHAPES = {
    "odd-heads": ((21, 3, 4, 16), (26, 5, 1, 6), 96),
    "grouped": ((20, 5, 5, 17), (24, 6, 3, 10), 90),
    "beyond-the-table": ((24, 2, 6, 18), (35, 7, 7, 4), 99),
}


def original(shape: str) -> Any:
    (width, heads, patch, size), (d, q, k, c), image = SHAPES[shape]
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "intermediate_size": 31,
            "patch_size": patch,
            "image_size": size,
            "vision_use_head": False,
            "projection_dim": d,
        },
        text_config={
            "model_type": "gemma",
            "hidden_size": d,
            "num_hidden_layers": 2,
            "num_attention_heads": q,
            "num_key_value_heads": k,
            "head_dim": c,
            "intermediate_size": 44,
            "vocab_size": 97,
            "eos_token_id": None,
            "pad_token_id": 0,
        },
        image_token_index=image,
        projection_dim=d,
    )
    return randomise(transformers.PaliGemmaForConditionalGeneration(config))


PICTURES = [[noise(20, 33), noise(41, 12, seed=1)], [], [noise(19, 19, seed=2)]]
Pair = tuple[Any, Any, list[list[int]]]


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: Any, tmp_path_factory: Any) -> Pair:
    """The original, ours, and rows with its image token."""
    one, token = original(request.param), SHAPES[request.param][2]
    rows = [[token, 5, 17, token, 41], [8, 20, 7], [token, 33, 4, 95]]
    return one, loaded(one, tmp_path_factory.mktemp("model")), rows


def theirs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs as transformers calls them."""
    return {
        "input_ids": inputs["tokens"],
        "attention_mask": inputs["valid"].long(),
        "token_type_ids": inputs["suffix"].long(),
        "pixel_values": inputs["pixels"],
    }


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("suffixes", [(), [[3, 9], [27], [81, 2, 6]]], ids=["prompts", "answers"])
def test_logits_and_taps(pair: Pair, side: str, suffixes: Any) -> None:
    inputs = pair[1].prepare(pair[2], PICTURES, pad=side, suffixes=suffixes)
    with torch.no_grad():
        expected = pair[0](**theirs(inputs), output_hidden_states=True)
        seen = pair[0].model.get_image_features(inputs["pixels"])
        with tapped(pair[1], "vision", "projector", "text.blocks.?", "text.norm") as taps:
            logits = pair[1](**inputs)
    assert_near(logits, expected.logits, inputs["valid"])
    assert_near(taps["vision"], seen.last_hidden_state)
    assert_near(taps["projector"], seen.pooler_output)
    for name, state in zip(["text.blocks.0", "text.norm"], expected.hidden_states[1:], strict=True):
        assert_near(taps[name], state, inputs["valid"])


def test_greedy_tokens(pair: Pair) -> None:
    inputs = pair[1].prepare(pair[2], PICTURES)
    expected = pair[0].generate(**theirs(inputs), max_new_tokens=6, do_sample=False)
    found = generate(pair[1], inputs, max_new_tokens=6)
    assert found == expected[:, inputs["tokens"].shape[1] :].tolist()


def test_every_way_of_running(pair: Pair) -> None:
    check_running(pair[1], pair[2], PICTURES, vocab=90)


def test_an_answer_does_not_change_what_the_prompt_sees(model: Any, io: dict[str, np.ndarray]) -> None:
    prompt = io["input_ids"][0].tolist()
    with torch.no_grad():
        logits = [
            model(**model.prepare([prompt], [[io["imageA"]]], suffixes=[suffix]))[0, : len(prompt)]
            for suffix in ([1, 2, 3], [4, 5, 6])
        ]
    assert torch.equal(*logits)


def test_inputs_that_do_not_fit_are_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="not a decoded image"):
        model.prepare([[model.config.image_token]], [["picture.png"]])
    with pytest.raises(UsageError, match="suffixes are given for 1 rows, there are 2"):
        model.prepare([[1], [2]], suffixes=[[3]])
