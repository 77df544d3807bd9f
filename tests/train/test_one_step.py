"""A training step equals the same step of the same model in transformers, by what it computes itself.

What its `save_pretrained` wrote is loaded and both take steps on the same batch. Gradients and weights are
compared under our names: what it writes afterwards is loaded again.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tiny_models
from dovetail.models.language import LanguageModel
from inputs.golden_images import noise
from models.policies import test_pi0
from models.policies.test_pi0 import in_float64
from models.running import check_cached, check_generate
from models.vlm import qwen_originals, test_llava_onevision
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

RATE = 0.05
WIDE = noise(20, 61), noise(41, 12, seed=1), noise(19, 19, seed=2)


class Case(NamedTuple):
    """A model of transformers, the token of an image, and what its files leave open."""

    original: Any
    image: int
    settings: dict[str, Any]


QWEN = {"min_pixels": 800, "max_pixels": 3200}
CASES = {
    "qwen2_vl": Case(lambda: qwen_originals.qwen2_vl("odd-heads"), qwen_originals.IMAGE, QWEN),
    "qwen3_vl": Case(lambda: qwen_originals.qwen3_vl("three-levels"), qwen_originals.IMAGE, QWEN),
    "llava_onevision": Case(lambda: test_llava_onevision.original("grouped"), test_llava_onevision.IMAGE, {}),
    "paligemma": Case(lambda: randomise(tiny_models.paligemma()), 96, {}),
}


def batch(id: str, model: LanguageModel, image: int) -> tuple[Any, Any, dict[str, Any], Any]:
    """Prompts, images, inputs and targets of rows with one image, two and none; answers alone are learnt."""
    rows = [[image, 5, 17], [8, image, 20, image, 7], [33, 4]]
    answers, images = [[4, 9], [27], [81, 2, 6]], [[WIDE[0]], [WIDE[1], WIDE[2]], []]
    if id == "paligemma":
        inputs = model.prepare(rows, images, pad="right", suffixes=answers)
        counts = inputs["suffix"]
    else:
        both = [[*row, *answer] for row, answer in zip(rows, answers, strict=True)]
        inputs = model.prepare(both, images, pad="right")
        ends = inputs["valid"].sum(dim=1)[:, None]
        starts = ends - torch.tensor([len(answer) for answer in answers])[:, None]
        column = torch.arange(inputs["tokens"].shape[1])[None]
        counts = (column >= starts) & (column < ends)
    return rows, images, inputs, inputs["tokens"].masked_fill(~counts, -100)


def theirs(id: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs as transformers calls them."""
    given = {"input_ids": inputs["tokens"], "attention_mask": inputs["valid"].long()}
    if id == "llava_onevision":
        views = inputs["pixels"].split([len(inputs["pixels"]) - 2, 1, 1])
        most = max(map(len, views))
        padded = [torch.cat([one, torch.zeros(most - len(one), *one.shape[1:])]) for one in views]
        sizes = torch.tensor([one.shape[:2] for one in WIDE])
        return {
            **given,
            "pixel_values": torch.stack(padded),
            "image_sizes": sizes,
            "batch_num_images": torch.tensor([1, 2, 0]),
        }
    if id == "paligemma":
        return {**given, "token_type_ids": inputs["suffix"].long(), "pixel_values": inputs["pixels"]}
    return qwen_originals.theirs(inputs)


def gradients(original: Any, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The gradients of a model of transformers under our names: saved as if they were weights."""
    one = deepcopy(original)
    with torch.no_grad():
        for weight, of in zip(one.parameters(), original.parameters(), strict=True):
            weight.copy_(torch.zeros_like(of) if of.grad is None else of.grad)
    return {
        name: weight.detach() for name, weight in loaded(one, folder, settings=settings).named_parameters()
    }


def check_gradients(model: Any, expected: dict[str, Any]) -> None:
    """Every gradient of ours is theirs; where no loss reaches a parameter, theirs is none."""
    for name, weight in model.named_parameters():
        if name in model.unreachable:
            assert not expected[name].any(), name
        else:
            assert_near(weight.grad, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("id", CASES)
def test_steps_equal_transformers(id: str, tmp_path: Path) -> None:
    """Loss, every gradient, and every weight after two steps; then cached decoding equals recomputing."""
    build, image, settings = CASES[id]
    original = build()
    model = loaded(original, tmp_path / "before", settings=settings)
    rows, images, inputs, targets = batch(id, model, image)
    given = theirs(id, inputs)
    for one in (original, model):
        one.train()
    optimizers = [torch.optim.SGD(one.parameters(), RATE, momentum=0.9) for one in (original, model)]
    losses = []
    for i in range(2):
        expected, found = original(**given, labels=targets).loss, model.loss(inputs, targets)
        assert_near(found, expected)
        for loss, optimizer in zip((expected, found), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
        check_gradients(model, gradients(original, tmp_path / f"step {i}", settings))
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(found))
    assert losses[1] < losses[0]
    after = dict(loaded(original, tmp_path / "after", settings=settings).named_parameters())
    for name, weight in model.named_parameters():
        assert_near(weight.detach(), after[name].detach())
    model.eval()
    check_cached(model, inputs)
    check_generate(model, rows, images, vocab=image)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["alternating", "alternating_cross"])
def test_alternating_attention_decodes_after_a_step_as_it_trains(variant: str, tmp_path: Path) -> None:
    build, image, _ = CASES["llava_onevision"]
    model = loaded(build(), tmp_path, settings={"variant": variant})
    rows, images, inputs, targets = batch("llava_onevision", model, image)
    before = float(model.loss(inputs, targets))
    optimizer = torch.optim.SGD(model.train().parameters(), RATE)
    model.loss(inputs, targets).backward()
    optimizer.step()
    assert float(model.loss(inputs, targets)) < before
    model.eval()
    check_cached(model, inputs)
    check_generate(model, rows, images, vocab=image)


def test_a_step_of_pi0_equals_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = test_pi0.original("two-key-heads")
    in_float64(original, monkeypatch)
    model = loaded(original, tmp_path / "before")
    given, same = test_pi0.batch()
    inputs = model.prepare(*given)
    draws = torch.Generator().manual_seed(1)
    noise_of, actions = (torch.randn(2, 4, 7, generator=draws) for _ in range(2))
    t = torch.tensor([0.3, 0.8])
    original.train()
    expected = original(noise=noise_of, timestep=t, actions=actions, **same).loss
    found = model.train().loss(inputs, actions, noise=noise_of, t=t)
    assert_near(found, expected)
    expected.backward()
    found.backward()
    check_gradients(model, gradients(original, tmp_path / "step", {}))
