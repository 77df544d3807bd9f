"""Packed equals padded: the loss and every gradient, for every family, with images and with M-RoPE."""

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dovetail.errors import UsageError
from dovetail.models import masks
from dovetail.models.language import LanguageModel
from dovetail.models.vlm.alternating import schedule
from inputs.golden_images import noise
from models.every_model import CASES
from parity import assert_near, randomise

READERS = [name for name, case in CASES.items() if case.family not in ("siglip", "dinov2", "pi0", "pi05")]
FAST = ("qwen3_vl-1", "paligemma-0", "mistral-1")  # M-RoPE and deepstack, prefixes, windows
ALTERNATING = ("llava_onevision-alternating", "llava_onevision-alternating_cross")
ATOL = 1e-9  # in float64; the bound of the field is 1e-5
NAMES = [*READERS, *ALTERNATING]
EACH = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def model_of(name: str, models: dict[str, Any]) -> LanguageModel:
    """A copy that may be trained, with weights that matter; a variant of LLaVA-OneVision by its masks."""
    family, _, variant = name.partition("-")
    base = models[name if name in models else f"{family}-0"]
    model: LanguageModel = randomise(deepcopy(base)).double()  # type: ignore[assignment]
    if name in ALTERNATING:
        model.layer_masks = schedule("by variant", variant, model.text.config.layers)
    return model


def batch(model: LanguageModel) -> tuple[dict[str, Any], torch.Tensor]:
    """Rows of several lengths, three of them with images, one with two; some tokens do not count."""
    rows = [[5, 9, 200, 4, 31, 7], [8, 3], [7, 1, 2, 6, 9, 33, 60, 61, 2, 5]]
    images: list[list[Any]] = [[], [], []]
    token = model.inputs.image_token
    if model.inputs.takes_images:
        assert token is not None
        several = model.inputs.family != "panovlm"  # of which all rows have as many views
        rows += [
            [5, token, 7],
            [4, token, 9, token, 3, 11] if several else [4, token, 9],
            [6, 2, token, 8, 1],
        ]
        pictures = [noise(23, 31), noise(40, 12, seed=1), noise(31, 20, seed=2), noise(20, 44, seed=3)]
        images += [[pictures[0]], pictures[1:3] if several else [pictures[1]], [pictures[3]]]
    suffixes = [[9, 4], [3, 8, 1]] * (len(rows) // 2) if len(rows) % 2 == 0 else [[9, 4], [3], [7, 1]]
    more = {"suffixes": suffixes} if model.inputs.sees_prompt_whole else {}
    inputs = model.prepare(rows, images if model.inputs.takes_images else (), pad="right", **more)
    inputs = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
    learned = inputs["suffix"] if more else inputs["valid"] & (inputs["tokens"] % 5 != 2)
    return inputs, inputs["tokens"].masked_fill(~learned | (inputs["tokens"] == token), -100)


def gradients(model: LanguageModel, *given: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The loss, and the gradient of every parameter."""
    model.zero_grad()
    loss = model.loss(*given, **options)
    loss.backward()
    return loss.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", EACH)
def test_packed_equals_padded(name: str, models: dict[str, Any]) -> None:
    model = model_of(name, models)
    given = batch(model)
    loss, padded = gradients(model, *given)
    found, packed = gradients(model, *given, is_packed=True)
    assert_near(found, loss, atol=ATOL)
    assert padded.keys() == packed.keys()
    assert set(dict(model.named_parameters())) - padded.keys() <= model.unreachable.keys()
    for weight, gradient in padded.items():
        assert_near(packed[weight], gradient, atol=ATOL)
    assert sum(float(one.abs().max()) > 1e-3 for one in padded.values()) > len(padded) / 2
    counted, _ = gradients(model, *given, is_packed=True, num_items_in_batch=1000)
    assert float(counted) < float(loss)


@pytest.mark.parametrize("name", EACH)
def test_a_row_that_sees_its_neighbour_would_be_noticed(
    name: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nanoVLM packs: joined padding masks, causal over all (`_pack_one_group`)."""
    model = model_of(name, models)
    given = batch(model)
    with torch.no_grad():
        loss = model.loss(*given)
        pasts_of = masks.pasts_of
        joined = lambda columns, rules, cache: pasts_of(columns._replace(sequence=None), rules, cache)  # noqa: E731
        monkeypatch.setattr("dovetail.models.language.pasts_of", joined)
        found = model.loss(*given, is_packed=True)
    assert abs(float(found - loss)) > 1e-3


def test_targets_of_packed_rows_are_one_for_each_token(models: dict[str, Any]) -> None:
    model = models["qwen3-0"]
    inputs = model.prepare([[5, 9, 200], [8]])
    with pytest.raises(UsageError, match="targets are one for each token"):
        model.loss(inputs, inputs["tokens"][:, 1:], is_packed=True)
