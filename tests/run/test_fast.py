"""Packed and joined products: the same numbers; 8 bits: nearly the same."""

from pathlib import Path

import pytest
import torch
from torch import nn

import dovetail
from commands import dovetail as command
from dovetail.models.language import LanguageModel
from dovetail.run.example import example_inputs
from dovetail.run.fast import is_packable, made_fast, packed, quantised
from files import MODELS

needs_bf16 = pytest.mark.skipif(
    not is_packable(torch.bfloat16, torch.device("cpu")), reason="oneDNN has no bf16 kernels on this CPU"
)
SIZES = {
    "qwen2_vl": {"text.d_model": 64, "text.head_dim": 16, "vision.d_vision": 64, "vision.heads": 4},
    "qwen3": {"text.d_model": 64, "text.head_dim": 16, "head": "head"},
    "gemma": {"text.d_model": 64, "text.head_dim": 16},
}


def loaded(family: str, folder: Path, dtype: str = "bfloat16") -> LanguageModel:
    """A tiny model; loading it again gives the same one."""
    if not folder.exists():
        dovetail.make(family, folder, sizes={**MODELS[family][0], **SIZES[family]}, dtype="float32", seed=1)
    settings = {"mrope_section": [2, 3, 3]} if family == "qwen2_vl" else {}
    model = dovetail.load(folder, dtype=dtype, settings=settings)
    assert isinstance(model, LanguageModel)
    return model


@needs_bf16
@pytest.mark.parametrize("family", SIZES)
def test_packed_products_change_nothing(family: str, tmp_path: Path) -> None:
    plain, fast = loaded(family, tmp_path / "m"), made_fast(loaded(family, tmp_path / "m"))
    assert isinstance(fast, LanguageModel)
    inputs = example_inputs(plain)
    with torch.no_grad():
        expected, found = plain(**inputs).float(), fast(**inputs).float()
    assert (
        float((expected - found).norm() / expected.norm()) < 5e-3
    )  # sums of joined products differ in order
    assert torch.equal(plain.generate(inputs, max_new_tokens=6), fast.generate(inputs, max_new_tokens=6))


@needs_bf16
def test_packed_weights_are_held_once(tmp_path: Path) -> None:
    fast = made_fast(loaded("qwen3", tmp_path / "m"))
    left = [name for name, _ in fast.named_parameters() if "norm" not in name]
    assert left == ["text.embed.weight"]


def test_what_cannot_be_packed_stays_as_it_is(tmp_path: Path) -> None:
    model = loaded("qwen3", tmp_path / "m", dtype="float32")
    before = dict(model.named_parameters())
    assert made_fast(model) is model
    assert dict(model.named_parameters()).keys() == before.keys()


@needs_bf16
def test_one_packed_product_is_bit_for_bit_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).bfloat16()
    bias = torch.randn(96, generator=generator).bfloat16()
    x = torch.randn(2, 3, 64, generator=generator).bfloat16()
    assert torch.equal(packed(weight, bias)(x), nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_eight_bits_are_near(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).bfloat16()
    bias = torch.randn(96, generator=generator).bfloat16()
    x = torch.randn(rows, 64, generator=generator).bfloat16()
    exact = nn.functional.linear(x.float(), weight.float(), bias.float())
    found = quantised(weight, bias)(x).float()
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < 2e-2


def test_a_model_of_eight_bits_runs(tmp_path: Path) -> None:
    plain, small = loaded("qwen3", tmp_path / "m"), made_fast(loaded("qwen3", tmp_path / "m"), "int8")
    inputs = example_inputs(plain)
    with torch.no_grad():
        expected, found = plain(**inputs).float(), small(**inputs).float()
    assert 1e-4 < float((expected - found).norm() / expected.norm()) < 5e-2


@needs_bf16
def test_generate_says_the_same_packed_and_nearly_the_same_in_8_bits(tmp_path: Path) -> None:
    loaded("qwen3", tmp_path / "m")
    words = ("generate", tmp_path / "m", "--dtype", "bfloat16", "--tokens", "3,5,8", "--max-new-tokens", "6")
    answers = {way: command(*words, "--weights", way) for way in ("stored", "packed", "int8")}
    assert {answer.code for answer in answers.values()} == {0}
    assert answers["stored"].out == answers["packed"].out
    assert len(answers["int8"].out.split()) == 6
