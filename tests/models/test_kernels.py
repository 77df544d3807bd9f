"""Packed and joined products: the same numbers; 8 bits: nearly the same."""

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dovetail
from commands import dovetail as command
from dovetail.errors import UsageError
from dovetail.models.attention import attend
from dovetail.models.kernels import Weights, choose_kernels, is_worth_packing
from dovetail.models.language import LanguageModel
from dovetail.models.layers import Linear
from dovetail.models.products import Make, Stored, fbgemm, int8, is_native, kernels, onednn
from dovetail.parity.example import example_inputs
from dovetail.run.engine import generate
from files import MODELS
from run.tiny import GIVEN
from run.tiny import SIZES as TINY

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    not is_native(torch.bfloat16), reason="oneDNN has no bf16 kernels on this CPU"
)
needs_fbgemm = pytest.mark.skipif(
    kernels(torch.float16, CPU) != "fbgemm", reason="torch is built without FBGEMM here"
)
needs_kernels = pytest.mark.skipif(
    kernels(torch.bfloat16, CPU) is None, reason="no kernels to pack weights for on this CPU"
)
WAYS = [
    pytest.param(Stored, id="stored"),
    pytest.param(onednn, id="onednn", marks=needs_onednn),
    pytest.param(fbgemm, id="fbgemm", marks=needs_fbgemm),
]
SIZES = {
    "qwen2_vl": {"text.d_model": 64, "text.head_dim": 16, "vision.d_vision": 64, "vision.heads": 4},
    "qwen3": {"text.d_model": 64, "text.head_dim": 16, "head": "head"},
    "gemma": {"text.d_model": 64, "text.head_dim": 16},
}


def random(*shape: int) -> torch.Tensor:
    """Normal numbers, always the same ones."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def loaded(
    family: str, folder: Path, dtype: str = "bfloat16", weights: Weights | None = None
) -> LanguageModel:
    """A tiny model; loading it again gives the same one."""
    if not folder.exists():
        dovetail.make(family, folder, set={**MODELS[family][0], **SIZES[family]}, dtype="float32", seed=1)
    settings = {"mrope_section": [2, 3, 3]} if family == "qwen2_vl" else {}
    model = dovetail.load(folder, dtype=dtype, settings=settings, weights=weights)
    assert isinstance(model, LanguageModel)
    return model


@needs_kernels
@pytest.mark.parametrize("family", SIZES)
def test_packed_products_change_nothing(family: str, tmp_path: Path) -> None:
    plain, fast = loaded(family, tmp_path / "m"), loaded(family, tmp_path / "m", weights="packed")
    assert isinstance(fast, LanguageModel)
    inputs = example_inputs(plain)
    with torch.no_grad():
        expected, found = plain(**inputs).float(), fast(**inputs).float()
    assert (
        float((expected - found).norm() / expected.norm()) < 5e-3
    )  # sums of joined products differ in order
    assert generate(plain, inputs, max_new_tokens=6) == generate(fast, inputs, max_new_tokens=6)


def saved(one: Any) -> Any:
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))


@pytest.mark.parametrize("copied", [deepcopy, pickled, saved])
@pytest.mark.parametrize("make", [*WAYS, pytest.param(int8, id="int8")])
def test_a_copy_of_a_product_is_the_same_product(make: Make, copied: Callable[[Any], Any]) -> None:
    dtype = torch.bfloat16
    weight, bias, x = random(96, 64).to(dtype), random(96).to(dtype), random(2, 3, 64).to(dtype)
    for given in (bias, None):
        product = make(weight.clone(), given)
        twin = copied(product)
        assert torch.equal(twin(x), product(x))
        assert copied(twin)(x).tolist() == product(x).tolist()


@pytest.mark.parametrize("copied", [deepcopy, pickled, saved])
def test_a_copied_model_computes_with_weights_of_its_own(
    copied: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = loaded("qwen3", tmp_path / "m")
    for module in model.modules():
        if isinstance(module, Linear):  # as where the processor has no products in 16 bits
            module.product = Stored(module.weight, module.bias)
    twin = copied(model)
    inputs = example_inputs(model)
    with torch.no_grad():
        before = model(**inputs)
        assert torch.equal(twin(**inputs), before)
        for weight in twin.parameters():
            weight *= 1.5
        assert not torch.equal(twin(**inputs), before)
        assert torch.equal(model(**inputs), before)
        for (name, one), other in zip(twin.named_modules(), model.modules(), strict=True):
            if isinstance(one, Linear):
                assert one.product.weight is one.weight, name
                assert other.product.weight is other.weight, name


@needs_kernels
@pytest.mark.parametrize("weights", ["packed", "int8"])
def test_a_model_with_weights_laid_out_is_copied(weights: Weights, tmp_path: Path) -> None:
    model = loaded("qwen2_vl", tmp_path / "m", weights=weights)
    inputs = example_inputs(model)
    with torch.no_grad():
        expected = model(**inputs)
        for copied in (deepcopy, pickled, saved):
            assert torch.equal(copied(model)(**inputs), expected), copied


@needs_kernels
def test_packed_weights_are_held_once(tmp_path: Path) -> None:
    fast = loaded("qwen3", tmp_path / "m", weights="packed")
    left = [name for name, one in fast.named_parameters() if "norm" not in name and not one.is_meta]
    assert left == ["text.embed.weight"]


def test_what_cannot_be_packed_stays_as_it_is(tmp_path: Path) -> None:
    model = loaded("qwen3", tmp_path / "m", dtype="float32")
    before = [one.data_ptr() for one in model.parameters()]
    choose_kernels(model, "packed")
    assert [one.data_ptr() for one in model.parameters()] == before


@pytest.mark.parametrize("make", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_product_has_16_bits_in_float32_sums_and_one_rounding(
    make: Make, dtype: torch.dtype, rows: int
) -> None:
    if make is onednn and dtype == torch.float16:
        pytest.skip("oneDNN's kernels are for bfloat16")
    weight, bias, x = random(96, 64).to(dtype), random(96).to(dtype), random(2, rows, 64).to(dtype)
    wide = nn.functional.linear(x.double(), weight.double(), bias.double())
    with torch.no_grad():
        found = make(weight, bias)(x)
    assert (found.dtype, found.shape) == (dtype, wide.shape)
    one_rounding = torch.finfo(dtype).eps / 2 * wide.abs() + 1e-5
    assert bool(((found.double() - wide).abs() <= one_rounding).all())


@needs_fbgemm
def test_rows_of_any_size_come_through_float16_exactly() -> None:
    sizes = 2.0 ** torch.arange(-120, 121, 8)
    weight = (random(len(sizes), 64) * sizes[:, None]).bfloat16()
    found = fbgemm(weight, None)(torch.eye(64))
    assert torch.equal(found, weight.float().T)


@needs_fbgemm
def test_a_weight_beyond_float16s_range_is_off_by_less_than_a_float32_sum_notices() -> None:
    weight = torch.ones(2, 64).bfloat16()
    weight[0, 1], weight[1, 1] = 1.5 * 2.0**-31, 1.5 * 2.0**-45
    found = fbgemm(weight, None)(torch.eye(64))
    assert torch.equal(found[:, 0], weight[0].float())
    assert float((found[:, 1] - weight[1].float()).abs().max()) <= 2.0**-41


@needs_fbgemm
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_stay_so(value: float) -> None:
    weight, x = random(3, 64).bfloat16(), random(2, 64).bfloat16()
    weight[1, 5] = value
    found = fbgemm(weight, None)(x)
    assert not bool(found[:, 1].isfinite().any())
    assert bool(found[:, [0, 2]].isfinite().all())


@needs_fbgemm
def test_a_tall_weight_is_laid_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random(50, 64).bfloat16(), random(3, 64).bfloat16()
    whole = fbgemm(weight, None)(x)
    monkeypatch.setattr("dovetail.models.products._PIECE", 64 * 16)
    assert torch.equal(fbgemm(weight, None)(x), whole)


def test_a_stored_weight_is_multiplied_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random(50, 64).bfloat16(), random(40, 64).bfloat16()
    monkeypatch.setattr("dovetail.models.products._BLOCK", 64 * 16)
    with torch.no_grad():
        found = Stored(weight, None)(x)
    assert torch.equal(found, (x.float() @ weight.float().T).bfloat16())


def test_a_stored_weight_can_be_trained() -> None:
    weight, x = nn.Parameter(random(50, 64).bfloat16()), random(40, 64).bfloat16()
    Stored(weight, None)(x).sum().backward()
    assert weight.grad is not None
    assert bool(weight.grad.abs().sum() > 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("queries", [1, 5])
def test_a_single_query_finds_what_several_do(dtype: torch.dtype, queries: int) -> None:
    q, k, v = (random(2, heads, n, 16).to(dtype) for heads, n in [(6, queries), (2, 9), (2, 9)])
    mask = torch.rand(2, 1, queries, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0] = True
    wide = attend(q.double(), k.double(), v.double(), mask)
    assert float((attend(q, k, v, mask).double() - wide).abs().max()) < 2 * torch.finfo(dtype).eps


def test_models_of_16_bits_answer_alike_as_stored(tmp_path: Path) -> None:
    plain, fast = loaded("qwen2_vl", tmp_path / "m"), loaded("qwen2_vl", tmp_path / "m", weights="stored")
    assert isinstance(fast, LanguageModel)
    inputs = example_inputs(plain)
    with torch.no_grad():
        expected, found = plain(**inputs).float(), fast(**inputs).float()
    assert float((expected - found).norm() / expected.norm()) < 5e-3
    assert generate(plain, inputs, max_new_tokens=6) == generate(fast, inputs, max_new_tokens=6)
    assert dict(fast.named_parameters()).keys() == dict(plain.named_parameters()).keys()


@pytest.mark.parametrize("weights", ["stored", "packed"])
@pytest.mark.parametrize("id", TINY)
def test_every_family_computes_the_same(id: str, weights: Weights, tmp_path: Path) -> None:
    dovetail.make(id, tmp_path / id, set=TINY[id][0], dtype="float32", seed=3)
    settings = GIVEN.get(id)
    plain = dovetail.load(tmp_path / id, dtype="bfloat16", settings=settings, as_=id)
    options = {"dtype": "bfloat16", "settings": settings, "as_": id}
    fast = dovetail.load(tmp_path / id, weights=weights, **options)
    inputs = example_inputs(plain)
    with torch.inference_mode():
        expected, found = plain(**inputs).float(), fast(**inputs).float()
    assert float((expected - found).norm() / expected.norm()) < 2e-2
    is_moved = weights == "packed" and kernels(torch.bfloat16, CPU) is not None
    assert any(one.is_meta for one in fast.parameters()) == is_moved
    assert {name: one.shape for name, one in fast.named_parameters()} == {
        name: one.shape for name, one in plain.named_parameters()
    }


def test_few_tokens_are_not_worth_packing(tmp_path: Path) -> None:
    model = loaded("qwen3", tmp_path / "m")
    assert not is_worth_packing(model, 8)
    assert is_worth_packing(model, 10_000) == (kernels(torch.bfloat16, CPU) is not None)
    assert not is_worth_packing(loaded("qwen3", tmp_path / "m", dtype="float32"), 10_000)


def test_8_bits_on_another_device_are_refused() -> None:
    model = nn.Linear(2, 2, device="meta")
    with pytest.raises(UsageError, match="weights of 8 bits run on a CPU only"):
        choose_kernels(model, "int8")


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_eight_bits_are_near(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).bfloat16()
    bias = torch.randn(96, generator=generator).bfloat16()
    x = torch.randn(rows, 64, generator=generator).bfloat16()
    exact = nn.functional.linear(x.float(), weight.float(), bias.float())
    found = int8(weight, bias)(x).float()
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < 2e-2


def test_a_model_of_eight_bits_runs(tmp_path: Path) -> None:
    plain, small = loaded("qwen3", tmp_path / "m"), loaded("qwen3", tmp_path / "m", weights="int8")
    inputs = example_inputs(plain)
    with torch.no_grad():
        expected, found = plain(**inputs).float(), small(**inputs).float()
    assert 1e-4 < float((expected - found).norm() / expected.norm()) < 5e-2


@needs_kernels
def test_generate_says_the_same_packed_and_nearly_the_same_in_8_bits(tmp_path: Path) -> None:
    loaded("qwen3", tmp_path / "m")
    words = ("generate", tmp_path / "m", "--dtype", "bfloat16", "--tokens", "3,5,8", "--max-new-tokens", "6")
    answers = {way: command(*words, "--weights", way) for way in ("stored", "packed", "int8")}
    assert {answer.code for answer in answers.values()} == {0}
    assert answers["stored"].out == answers["packed"].out
    assert len(answers["int8"].out.split()) == 6
