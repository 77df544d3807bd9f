"""Watching a model: every module that runs is seen, in every family, and one that does not run is no silence."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dovetail.errors import UsageError
from dovetail.models.language import LanguageModel
from dovetail.models.taps import Step, attached, matching, steps_of, tapped
from models.every_model import CASES
from run.tiny import batch, output

pytestmark = pytest.mark.filterwarnings("ignore")
DECODERS = ("text", "llm", "vlm", "expert")
# Tables of which the first rows are read, without a call.
READ = "resampler.bert.embeddings.position_embeddings", "resampler.bert.embeddings.token_type_embeddings"


@pytest.mark.parametrize("name", CASES)
def test_every_module_that_a_loss_reaches_is_seen(name: str, models: dict[str, Any]) -> None:
    """What has not run holds parameters that no loss reaches, or none."""
    model = models[name]
    expected = output(model)
    with tapped(model, "*") as outputs:
        assert torch.equal(output(model), expected)
    unreachable = getattr(model, "unreachable", {})
    for module in set(outputs.not_run) - set(READ):
        inside = [one for one, _ in model.named_parameters() if one.startswith(f"{module}.")]
        is_tower = not hasattr(model, "unreachable")  # whose pool and texts are methods of their own
        assert is_tower or set(inside) <= unreachable.keys(), module


@pytest.mark.parametrize("name", CASES)
def test_every_block_of_every_decoder_is_seen(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    for role in DECODERS:
        part = getattr(model, role, None)
        if part is not None and hasattr(part, "blocks") and not name.startswith("siglip"):
            with tapped(model, f"{role}.blocks.?", f"{role}.norm") as outputs:
                output(model)
            assert outputs.not_run == ()
            assert list(outputs)[:-1] == [f"{role}.blocks.{i}" for i in part.blocks]
            x = outputs[f"{role}.norm"]
            assert outputs[f"{role}.blocks.0"].shape == x.shape


@pytest.mark.parametrize("name", ["qwen2_vl-0", "qwen2_vl-1"])
def test_the_head_is_seen_whether_it_is_tied_or_not(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    with torch.no_grad(), tapped(model, "head", "text.norm") as outputs:
        logits = model(**batch(model))
    assert outputs["head"] is logits
    assert torch.equal(logits, outputs["text.norm"] @ model.head_weight.T)


def test_what_a_tap_gives_takes_the_place_of_the_module(models: dict[str, Any]) -> None:
    model = models["qwen3-0"]
    inputs, seen = batch(model), []

    def doubled(step: Step) -> Any:
        seen.append((step.name, step.args[0].shape))
        return 2 * step.run()

    with torch.no_grad():
        plain = model(**inputs)
        with attached(model, doubled, ["head"]):
            assert torch.equal(model(**inputs), 2 * plain)
        assert torch.equal(model(**inputs), plain)
    assert seen == [("head", torch.Size([2, 3, 26]))]
    assert "forward" not in vars(model.text.norm)
    assert "logits" not in vars(model)


def test_a_model_is_as_before_when_a_tap_fails(models: dict[str, Any]) -> None:
    model = models["qwen3-0"]

    def broken(step: Step) -> Any:
        raise ValueError(step.name)

    with pytest.raises(ValueError, match=r"text\.norm"), attached(model, broken, ["text.norm"]):
        model(**batch(model))
    assert "forward" not in vars(model.text.norm)


def test_a_pattern_of_which_nothing_runs_is_an_error(models: dict[str, Any]) -> None:
    model = models["llava-0"]
    with pytest.raises(UsageError) as error, tapped(model, "vision.norm", "text.norm"):
        output(model)
    assert str(error.value) == (
        "nothing that `vision.norm` names has run\n\n"
        "hint: it names vision.norm; run the model within the context"
    )
    with tapped(model, "vision.blocks.?") as outputs:
        output(model)
    assert outputs.not_run == ("vision.blocks.1",)
    with pytest.raises(UsageError, match=r"`vision\.blocks\.1` has not run"):
        outputs["vision.blocks.1"]
    with pytest.raises(UsageError, match=r"`text\.norm` was not watched"):
        outputs["text.norm"]


def test_an_error_of_the_model_is_not_hidden(models: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mine"), tapped(models["qwen3-0"], "head"):
        raise ValueError("mine")


@pytest.mark.parametrize("pattern", ["txt.*", "text.blocks", "vision.*"])
def test_a_pattern_that_names_nothing_that_runs_is_refused(pattern: str, models: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"no module that runs is called `{pattern}`".replace("*", r"\*")):
        matching(models["qwen3-0"], pattern)


def test_a_step_has_the_name_of_its_parameters(models: dict[str, Any]) -> None:
    for model in models.values():
        steps = steps_of(model)
        assert ("head" in steps) == isinstance(model, LanguageModel)
        for name, module in steps.items():
            if name != "head":
                assert module is model.get_submodule(name)
