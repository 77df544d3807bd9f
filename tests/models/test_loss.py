"""The loss of language models equals transformers', gradients too; that of policies is openpi's."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tiny_models
from dovetail.errors import UsageError
from dovetail.models.stream import packed
from dovetail.models.trainable import cross_entropy, drawn_times, predicted
from inputs.golden_images import noise
from models.every_model import CASES
from parity import assert_near, loaded, randomise
from run.tiny import batch

pytestmark = pytest.mark.filterwarnings("ignore")
ORIGINALS = {
    "qwen2_vl": tiny_models.qwen2_vl,
    "qwen2_5_vl": tiny_models.qwen2_5_vl,
    "qwen3_vl": tiny_models.qwen3_vl,
    "llava_onevision": tiny_models.llava_onevision,
    "paligemma": tiny_models.paligemma,
    "qwen3": tiny_models.decoder("Qwen3", head_dim=10, tie_word_embeddings=True),
    "llama": tiny_models.decoder("Llama"),
}
QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
IMAGES = {**dict.fromkeys(QWEN_VL, 90), "llava_onevision": 95, "paligemma": 96}
READERS = [name for name, case in CASES.items() if case.family not in ("siglip", "dinov2", "pi0", "pi05")]
POLICIES = ["pi0-0", "pi05-0"]


def theirs(id: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs as transformers calls them."""
    given = {"input_ids": inputs["tokens"], "attention_mask": inputs["valid"].long()}
    match id:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            return {
                **given,
                "mm_token_type_ids": (inputs["tokens"] == IMAGES[id]).int(),
                "pixel_values": inputs["pixels"],
                "image_grid_thw": inputs["grids"],
            }
        case "llava_onevision":
            return {**given, "pixel_values": inputs["pixels"][None], "image_sizes": inputs["sizes"]}
        case "paligemma":
            return {**given, "token_type_ids": inputs["suffix"].long(), "pixel_values": inputs["pixels"]}
        case _:
            return given


@pytest.fixture(scope="module", params=ORIGINALS)
def pair(request: Any, tmp_path_factory: Any) -> tuple[str, Any, Any, dict[str, Any], Any]:
    """A family, its original, ours, a batch of three rows and its targets: some columns do not count."""
    id = request.param
    original = randomise(ORIGINALS[id]())
    settings = {"min_pixels": 800, "max_pixels": 3200} if id in QWEN_VL else {}
    model = loaded(original, tmp_path_factory.mktemp("model"), settings=settings)
    first = [IMAGES[id], 5, 17, 41, 3] if id in IMAGES else [5, 17, 41, 3]
    images = [[noise(30, 61)], [], []] if id in IMAGES else ()
    rows = [first, [8, 20, 7, 9, 60, 61, 2], [33, 4]]
    if id == "paligemma":
        answers = [[4, 9], [27], [81, 2, 6]]
        inputs = model.prepare(rows, images, pad="right", suffixes=answers)
        counts = inputs["suffix"]
    else:
        inputs = model.prepare(rows, images, pad="right")
        counts = inputs["valid"] & (inputs["tokens"] != IMAGES.get(id)) & (inputs["tokens"] != 41)
    return id, original, model, inputs, inputs["tokens"].masked_fill(~counts, -100)


@pytest.mark.parametrize("count", [None, 50, torch.tensor(7)], ids=["mean", "int", "tensor"])
def test_loss_and_gradients_equal_transformers(pair: Any, count: Any, tmp_path: Path) -> None:
    id, original, model, inputs, targets = pair
    one, mine = deepcopy(original), deepcopy(model)
    expected = one(**theirs(id, inputs), labels=targets, num_items_in_batch=count).loss
    found = mine.loss(inputs, targets, num_items_in_batch=count)
    assert found.shape == ()
    assert_near(found, expected)
    expected.backward()
    found.backward()
    with torch.no_grad():
        for weight in one.parameters():  # saved and loaded, their gradients get our names
            weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
    gradients = dict(loaded(one, tmp_path).named_parameters())
    assert float(gradients["text.embed.weight"].abs().max()) > 0.01
    for name, weight in mine.named_parameters():
        if name in mine.unreachable:
            assert not gradients[name].any(), name
        else:
            assert_near(weight.grad, gradients[name].detach())


def test_the_head_sees_only_the_columns_that_predict_a_target(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, model, inputs, targets = pair
    seen, logits = [], model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(hidden.shape[:2]) or logits(hidden))
    model.loss(inputs, targets)
    assert seen == [(1, int((targets[:, 1:] != -100).sum()))]
    assert seen[0][1] < inputs["tokens"].numel() / 2


def test_padding_does_not_count(models: dict[str, Any]) -> None:
    """A row by itself and in a batch, on either side: nothing is predicted by or of padding."""
    for name in ("qwen3-0", "qwen2_vl-0", "gemma-0"):
        model = models[name]
        rows = [[5, 9, 200, 4], [8, 3], [7]]
        alone = [model.prepare([row]) for row in rows]
        with torch.no_grad():
            each = [model.loss(one, one["tokens"], num_items_in_batch=1) for one in alone]
            for side in ("left", "right"):
                inputs = model.prepare(rows, pad=side)
                assert_near(model.loss(inputs, inputs["tokens"]), sum(each) / 4)


def test_batches_add_up(models: dict[str, Any]) -> None:
    """The mean over a batch is the sum over its parts, each over the count of all."""
    model = deepcopy(models["qwen3-0"])
    rows = [[5, 9, 200, 4], [8, 3, 1]]
    whole = model.prepare(rows)
    model.loss(whole, whole["tokens"]).backward()
    expected = model.text.embed.weight.grad.clone()
    model.zero_grad()
    for row in rows:
        inputs = model.prepare([row])
        model.loss(inputs, inputs["tokens"], num_items_in_batch=5).backward()
    assert_near(model.text.embed.weight.grad, expected)


def test_sequences_that_share_a_row_predict_nothing_of_each_other(models: dict[str, Any]) -> None:
    model = models["qwen3-0"]
    rows = [[5, 9, 200, 4], [8, 3], [7], [1, 2, 6]]
    inputs = [model.prepare([row]) for row in rows]
    with torch.no_grad():
        each = [model.loss(one, one["tokens"], num_items_in_batch=6) for one in inputs]
        stream = packed([model.embed(**one) for one in inputs])
        counts, targets = predicted(torch.cat([one["tokens"] for one in inputs], dim=1), stream.columns)
        scores = model.logits(model.hidden(stream)[counts][None])[0]
    assert targets.tolist() == [9, 200, 4, 3, 2, 6]
    assert_near(cross_entropy(scores, targets).mean(), sum(each))


def test_where_nothing_counts_the_loss_is_0(models: dict[str, Any]) -> None:
    model = deepcopy(models["qwen3-0"])
    inputs = model.prepare([[5, 9, 200]])
    loss = model.loss(inputs, torch.full_like(inputs["tokens"], -100))
    loss.backward()
    assert float(loss) == 0
    assert not any(weight.grad.any() for weight in model.parameters())


def test_narrow_logits_are_compared_in_float32(models: dict[str, Any]) -> None:
    model = deepcopy(models["qwen3-0"]).bfloat16()
    inputs = model.prepare([[5, 9, 200, 4]])
    loss = model.loss(inputs, inputs["tokens"])
    scores = model(**inputs)[0, :-1].float()
    assert loss.dtype == torch.float32
    assert_near(loss, torch.nn.functional.cross_entropy(scores, inputs["tokens"][0, 1:]), atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tokens: tokens[:, 1:],
            "targets are one for each token\n  expected  (1, 3)\n  found     (1, 2)",
        ),
        (lambda tokens: tokens + 11, "target 211 is outside the vocabulary of 211"),
        (lambda tokens: tokens - 10, "target -1 is outside the vocabulary of 211"),
    ],
)
def test_targets_that_do_not_fit_are_refused(change: Any, message: str, models: dict[str, Any]) -> None:
    model = models["qwen3-0"]
    inputs = model.prepare([[5, 9, 200]])
    with pytest.raises(UsageError) as error:
        model.loss(inputs, change(inputs["tokens"]))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", READERS)
def test_logits_of_chosen_columns(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    inputs = batch(model)
    with torch.no_grad():
        whole = model(**inputs)
        chosen = model(**inputs, columns=torch.tensor([[-1, 0], [1, -2]]))
    assert_near(chosen, torch.stack([whole[0, [-1, 0]], whole[1, [1, -2]]]))


def test_columns_that_are_not_there_are_refused(models: dict[str, Any]) -> None:
    model = models["qwen3-0"]
    with pytest.raises(UsageError, match="columns are from -3 to 2"):
        model(**model.prepare([[5, 9, 200]]), columns=torch.tensor([[3]]))


def drawn(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", POLICIES)
def test_the_loss_of_a_policy_is_the_mean_of_its_squared_errors(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    inputs = batch(model)
    actions = torch.randn(2, *model.action_shape, generator=drawn(1))
    noise_of = torch.randn(actions.shape, generator=drawn(2))
    t = drawn_times(2, drawn(3), actions.device)
    with torch.no_grad():
        errors = model.squared_errors(inputs, actions, noise=noise_of, t=t)
        assert errors.shape == actions.shape
        assert_near(model.loss(inputs, actions, noise=noise_of, t=t), errors.mean())
        halved = model.loss(inputs, actions, noise=noise_of, t=t, num_items_in_batch=2 * actions.numel())
        assert_near(halved, errors.mean() / 2)
        first, again, other = (model.loss(inputs, actions, generator=drawn(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_can_be_trained(name: str, models: dict[str, Any]) -> None:
    """A few steps bring the loss of one batch down, with the same noise and times."""
    model = randomise(deepcopy(models[name]))
    inputs = batch(model)
    actions = torch.randn(2, *model.action_shape, generator=drawn(1))
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 1e-3)
    losses = []
    for _ in range(8):
        loss = model.loss(inputs, actions, generator=drawn(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]


def test_times_are_drawn_as_openpi_draws_them() -> None:
    """0.999 x + 0.001 with x from Beta(1.5, 1): by the distance of the two distribution functions."""
    times = drawn_times(20_000, drawn(0), torch.device("cpu")).double().sort().values
    share = (times - 0.001) / 0.999
    assert float(times[0]) >= 0.001
    assert float(times[-1]) <= 1
    steps = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
    assert float((share**1.5 - steps).abs().max()) < 1.63 / 20_000**0.5  # Kolmogorov-Smirnov at 1 %
    assert float((share**1.4 - steps).abs().max()) > 1.63 / 20_000**0.5


def test_targets_that_are_no_actions_are_refused(models: dict[str, Any]) -> None:
    model = models["pi0-0"]
    with pytest.raises(UsageError) as error:
        model.loss(batch(model), torch.zeros(2, 50, 12), generator=drawn(0))
    assert str(error.value) == (
        "the targets are no actions of this policy\n"
        "  expected  (2, steps, 13)\n"
        "  found     (2, 50, 12)\n\n"
        "hint: narrower actions are followed by zeros"
    )
