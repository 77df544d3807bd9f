"""What only the data can show, on files with planted faults; and nothing on healthy ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import dovetail
from dovetail.report import Report
from files import MODELS, header_of, plan_of

Tensors = dict[str, torch.Tensor]


def trained(id: str = "qwen2", model: int = 0, layout: str = "hf", **sizes: int) -> Tensors:
    """Weights that look trained: norms spread around one, matrices of differing spread."""
    generator = torch.Generator().manual_seed(0)
    plan = plan_of(id, {**MODELS[id][model], **sizes})
    tensors = {}
    for i, (name, (_, shape)) in enumerate(header_of(plan, layout).items()):
        noise = torch.randn(shape, generator=generator)
        tensors[name] = (
            1 + 0.2 * noise
            if "norm" in name and name.endswith("weight")
            else noise * (0.03 + 0.001 * (i % 17))
        )
    return tensors


def judge(tmp_path: Path, tensors: Tensors, config: dict[str, Any] | None = None) -> Report:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", **(config or {})}))
    return dovetail.validate(tmp_path, values=True)


def said(report: Report) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity, f.message) for f in report.findings]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_healthy_file_has_no_findings(dtype: torch.dtype, tmp_path: Path) -> None:
    report = judge(tmp_path, {name: tensor.to(dtype) for name, tensor in trained().items()})
    assert (report.is_whole, said(report)) == (True, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_is_found_in_any_dtype_and_place(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in trained(**{"text.vocab": 9001}).items()}
    tensors["model.embed_tokens.weight"].view(-1)[-3] = value  # beyond the first block of a megabyte
    tensors["model.norm.weight"][0] = value
    report = judge(tmp_path, tensors)
    assert said(report) == [
        ("nan", "error", "`model.embed_tokens.weight` and 1 more: 2 values NaN or infinite")
    ]


def test_float8_is_judged_too(tmp_path: Path) -> None:
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in trained().items()}
    assert judge(tmp_path, tensors).is_whole
    tensors["model.norm.weight"].view(torch.uint8)[0] = 0x7F
    assert [code for code, *_ in said(judge(tmp_path, tensors))] == ["nan"]


def test_a_matrix_of_zeros_is_a_warning_and_a_bias_of_zeros_is_not(tmp_path: Path) -> None:
    tensors = trained()
    tensors["model.layers.1.self_attn.q_proj.bias"].zero_()
    assert said(judge(tmp_path, tensors)) == []
    tensors["model.layers.1.mlp.up_proj.weight"].zero_()
    assert said(judge(tmp_path, tensors)) == [
        ("zeros", "warning", "`model.layers.1.mlp.up_proj.weight` is all zero")
    ]


def test_a_part_that_a_loader_left_random_is_named(tmp_path: Path) -> None:
    """TOOLS finding 3: a vision tower cut out, loaded and saved again comes back complete and random."""
    tensors = trained("llava_onevision")
    for name, tensor in tensors.items():
        if name.startswith("vision_tower"):
            tensor.copy_(
                torch.ones_like(tensor)
                if "norm" in name and "weight" in name
                else torch.randn(tensor.shape) * 0.02
            )
            if name.endswith("bias"):
                tensor.zero_()
    (code, severity, message), *rest = said(judge(tmp_path, tensors, {"model_type": "llava_onevision"}))
    assert (code, severity, rest) == ("fresh-init", "warning", [])
    assert message.startswith(
        "vision looks freshly initialised: 5 of 5 norms are untouched, 14 of 14 matrices have the spread"
    )


@pytest.mark.parametrize(
    "fill",
    [lambda t: torch.randn(t.shape) * 0.02, lambda t: (torch.rand(t.shape) * 2 - 1) / t.shape[1] ** 0.5],
    ids=["normal", "torch.nn.Linear"],
)
def test_one_random_matrix_among_trained_layers_is_named(fill: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tensors = trained(**{"text.layers": 6, "text.d_ff": 331})
    for name, tensor in tensors.items():
        if "layers.4.mlp.up" in name:
            tensors[name] = fill(tensor)
    assert said(judge(tmp_path, tensors)) == [
        (
            "fresh-init",
            "warning",
            "`model.layers.4.mlp.up_proj.weight` looks freshly initialised among trained layers",
        )
    ]


def test_a_model_of_transformers_just_made_looks_fresh(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    codes = {
        (code, message.split(":")[0]) for code, _, message in said(dovetail.validate(tmp_path, values=True))
    }
    assert codes == {
        ("fresh-init", "text looks freshly initialised"),
        ("fresh-init", "head looks freshly initialised"),
    }


@pytest.mark.parametrize(("change", "equal", "found"), [(0.0, True, []), (1e-3, False, ["warning"])])
def test_a_stored_tied_head_is_compared_with_the_embedding(
    change: float, equal: bool, found: list[str], tmp_path: Path
) -> None:
    tensors = trained("qwen2", 1)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + change
    report = judge(tmp_path, tensors, {"tie_word_embeddings": True})
    assert report.ties[0].are_equal is equal
    assert [f.severity for f in report.findings if f.severity != "note"] == found
    assert judge(tmp_path, tensors, {"tie_word_embeddings": False}).is_whole


def test_second_names_must_be_equal(tmp_path: Path) -> None:
    """pi0: safetensors keeps one name of the token table; RLinf stores both."""
    tensors = trained("pi0", 0, "openpi")
    table = "paligemma_with_expert.paligemma.lm_head.weight"
    second = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    tensors[second] = tensors[table].clone()
    assert judge(tmp_path, tensors, {"model_type": "pi0"}).is_whole
    tensors[second][3, 3] += 1
    report = judge(tmp_path, tensors, {"model_type": "pi0"})
    assert [(f.code, f.message) for f in report.findings if f.severity == "error"] == [
        ("duplicate-differs", f"`{second}` should be the same tensor as `{table}` and is not")
    ]


def test_a_listing_says_that_it_has_no_values(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf")))
    assert said(dovetail.validate(path, values=True)) == [
        ("no-values", "warning", "the values were not checked: this input holds names and shapes only")
    ]
