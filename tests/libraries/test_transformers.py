"""Files that transformers and torch write in this run are told right: family, layout, sizes and counts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dovetail
from dovetail.report import Report
from tiny_models import (
    decoder,
    llava_onevision,
    paligemma,
    pi0,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    siglip,
    siglip2_naflex,
    siglip_vision,
)

pytestmark = pytest.mark.filterwarnings("ignore")

DECODER = {"layers": 3, "d_model": 32, "d_ff": 56, "vocab": 97, "q_heads": 4}
MODELS: dict[str, tuple[Callable[[], torch.nn.Module], str, str, str | None, dict[str, int]]] = {
    # builder, family, layout on disk, layout of torch.save(state_dict()), a few sizes
    "qwen2_vl": (
        qwen2_vl,
        "qwen2_vl",
        "hf",
        "hf-4.52",
        {
            "text.kv_heads": 2,
            "vision.heads": 3,
            "merger.merge_area": 4,
            **{f"text.{k}": v for k, v in DECODER.items()},
        },
    ),
    "qwen2_5_vl": (
        qwen2_5_vl,
        "qwen2_5_vl",
        "hf",
        "hf-4.52",
        {"text.kv_heads": 2, "vision.heads": 3, "vision.window_size": 28, "tokens_per_second": 3},
    ),
    "qwen3_vl": (
        qwen3_vl,
        "qwen3_vl",
        "hf",
        "hf",
        {"text.head_dim": 10, "vision.heads": 3, "vision.positions": 9, "deepstack.levels": 2},
    ),
    "paligemma": (
        paligemma,
        "paligemma",
        "hf-5.23",
        "hf-5.23-mem",
        {"text.head_dim": 12, "vision.positions": 4},
    ),
    "llava_onevision": (
        llava_onevision,
        "llava_onevision",
        "hf-5.23",
        "hf-5.23-mem",
        {"text.kv_heads": 2, "vision.layers": 2},
    ),
    "siglip": (siglip, "siglip", "hf", "hf", {"vision.heads": 3, "text.vocab": 97}),
    "siglip_vision": (siglip_vision, "siglip", "hf-5.23", "hf-5.23", {"vision.heads": 3, "vision.patch": 14}),
    "pi0": (
        pi0,
        "pi0",
        "transformers-5.23",
        "transformers",
        {"expert.d_model": 20, "heads.d_state": 5, "heads.d_action": 7, "vlm.q_heads": 4},
    ),
    "qwen2": (
        decoder("Qwen2", tie_word_embeddings=False),
        "qwen2",
        "hf",
        "hf",
        {"text.kv_heads": 2, "head.vocab": 97},
    ),
    "qwen3": (
        decoder("Qwen3", tie_word_embeddings=True, head_dim=10),
        "qwen3",
        "hf",
        "hf",
        {"text.head_dim": 10, "text.q_heads": 4},
    ),
    "gemma": (decoder("Gemma", head_dim=12), "gemma", "hf", "hf", {"text.head_dim": 12, "text.kv_heads": 2}),
    "llama": (decoder("Llama", tie_word_embeddings=False), "llama", "hf", "hf", {"text.head_dim": 8}),
}


def sizes(report: Report, expected: dict[str, int]) -> dict[str, Any]:
    return {name: report.config[name].value for name in expected}


@pytest.mark.parametrize("name", MODELS)
def test_what_save_pretrained_writes_is_told_right(name: str, tmp_path: Path) -> None:
    build, family, layout, _, expected = MODELS[name]
    model = build()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    report = dovetail.validate(tmp_path)
    assert (report.family, report.layout) == (family, layout)
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert sizes(report, expected) == expected
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_what_torch_save_writes_is_told_right(name: str, tmp_path: Path) -> None:
    build, family, _, layout, expected = MODELS[name]
    model = build()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    model.config.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    report = dovetail.validate(tmp_path)
    assert (report.family, report.layout) == (family, layout)
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert sizes(report, expected) == expected
    state = model.state_dict()
    storages = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
    assert (report.tensors, report.parameters) == (len(state), sum(storages.values()))


def test_shards_of_save_pretrained(tmp_path: Path) -> None:
    model = llava_onevision()
    model.save_pretrained(tmp_path, max_shard_size="40KB")  # type: ignore[operator]
    report = dovetail.validate(tmp_path, values=True)
    assert (report.family, report.format, len(report.files) > 3) == ("llava_onevision", "sharded", True)
    assert [f.message for f in report.findings if f.severity == "error"] == []


def test_a_flexible_tower_is_told_by_the_shape_of_its_patch_embedding(tmp_path: Path) -> None:
    siglip2_naflex().save_pretrained(tmp_path)  # type: ignore[operator]
    report = dovetail.validate(tmp_path)
    assert (report.family, report.parts["vision"].kind) == ("siglip", "siglip_naflex")
    assert [f.message for f in report.findings if f.severity == "error"] == []


def test_a_lightning_checkpoint_with_hyper_parameters(tmp_path: Path) -> None:
    import argparse

    model = decoder("Qwen2", tie_word_embeddings=False)()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    hparams = argparse.Namespace(num_attention_heads=4, path=Path("/data"))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.tensor([[1, 2]])).logits.sum().backward()
    optimizer.step()
    torch.save(
        {
            "state_dict": state,
            "hyper_parameters": hparams,
            "optimizer_states": [optimizer.state_dict()],
            "epoch": 3,
        },
        tmp_path / "last.ckpt",
    )
    report = dovetail.validate(tmp_path / "last.ckpt")
    assert (report.family, report.layout, report.wrappers) == ("qwen2", "hf", ("state_dict/", "model."))
    assert report.config["text.q_heads"].evidence == "hyper_parameters in the checkpoint: num_attention_heads"
    assert report.tensors == len(state)
    assert list(report.accounting.ignored) == ["training state `optimizer_states`"]


def test_a_nested_prismatic_checkpoint(tmp_path: Path) -> None:
    from stand_in import import_timm

    timm = import_timm()
    tower = timm.create_model(
        "vit_so400m_patch14_siglip_384", depth=2, embed_dim=24, num_heads=3, img_size=28
    )
    llm = decoder("Qwen3", tie_word_embeddings=True, head_dim=10)()
    projector = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
    nested = {
        "vision_backbone": {f"featurizer.{name}": tensor for name, tensor in tower.state_dict().items()},
        "projector": {f"projector.{name}": tensor for name, tensor in projector.state_dict().items()},
        "llm_backbone": {f"llm.{name}": tensor for name, tensor in llm.state_dict().items()},
    }
    (tmp_path / "checkpoints").mkdir()
    torch.save(
        {"model": nested, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        tmp_path / "checkpoints" / "latest-checkpoint.pt",
    )
    report = dovetail.validate(tmp_path)
    assert (report.family, report.layout, report.wrappers) == ("prismatic", "native", ("model/",))
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert {role: part.kind for role, part in report.parts.items()} == {
        "vision": "siglip",
        "projector": "gelu_mlp",
        "llm": "qwen3",
        "head": "head",
    }
    assert report.parts["vision"].features == ("pool",)
    parameters = [*tower.parameters(), *projector.parameters(), *llm.parameters()]
    assert report.parameters == sum(p.numel() for p in parameters)


@pytest.mark.parametrize("model", ["vit_so400m_patch14_siglip_384", "vit_so400m_patch14_siglip_gap_384"])
def test_a_tower_of_timm(model: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from stand_in import import_timm

    tower = import_timm().create_model(model, depth=3, embed_dim=24, num_heads=3, img_size=42)
    save_file(tower.state_dict(), tmp_path / "model.safetensors")
    report = dovetail.validate(tmp_path / "model.safetensors")
    has_pool = "gap" not in model
    assert (report.family, report.layout, report.parts["vision"].features) == (
        "siglip",
        "timm",
        ("pool",) if has_pool else (),
    )
    assert sizes(report, {"vision.layers": 3, "vision.positions": 9}) == {
        "vision.layers": 3,
        "vision.positions": 9,
    }
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert report.parameters == sum(math.prod(p.shape) for p in tower.parameters())


def test_a_dinov2_tower_of_timm(tmp_path: Path) -> None:
    from stand_in import import_timm

    tower = import_timm().create_model(
        "vit_large_patch14_reg4_dinov2", depth=2, embed_dim=24, num_heads=3, img_size=28
    )
    torch.save(tower.state_dict(), tmp_path / "dino.pth")
    report = dovetail.validate(tmp_path / "dino.pth")
    assert (report.family, report.layout, report.parts["vision"].features) == (
        "dinov2",
        "timm",
        ("registers",),
    )
    assert sizes(report, {"vision.registers": 4, "vision.d_vision": 24}) == {
        "vision.registers": 4,
        "vision.d_vision": 24,
    }
