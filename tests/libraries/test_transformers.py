"""Files that transformers and torch write in this run are told right: family, layout, sizes and counts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import dovetail
from dovetail.report import Report

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}


def qwen2_vl() -> torch.nn.Module:
    vision = {
        "depth": 2,
        "embed_dim": 24,
        "num_heads": 3,
        "hidden_size": 32,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    text = {
        **TEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }
    config = transformers.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=90,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def paligemma() -> torch.nn.Module:
    text = {**TEXT, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 12}
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=TOWER, projection_dim=32, image_token_index=96
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def llava_onevision() -> torch.nn.Module:
    text = {**TEXT, "model_type": "qwen2", "tie_word_embeddings": True}
    config = transformers.LlavaOnevisionConfig(
        text_config=text,
        vision_config=TOWER,
        image_token_index=95,
        video_token_index=94,
        tie_word_embeddings=True,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def siglip() -> torch.nn.Module:
    text = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 97,
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))


def siglip_vision() -> torch.nn.Module:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION))


def siglip2_naflex() -> torch.nn.Module:
    vision = {name: size for name, size in VISION.items() if name != "image_size"} | {"num_patches": 16}
    text = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 97,
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def pi0() -> torch.nn.Module:
    gemma = {**TEXT, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 12}
    vlm = {
        "model_type": "paligemma",
        "vision_config": TOWER,
        "text_config": gemma,
        "projection_dim": 32,
        "image_token_index": 96,
    }
    config = transformers.PI0Config(
        vlm_config=vlm, dit_config={**gemma, "hidden_size": 20}, max_state_dim=5, max_action_dim=7
    )
    return transformers.PI0ForConditionalGeneration(config)


def decoder(kind: str, **changes: Any) -> Callable[[], torch.nn.Module]:
    def build() -> torch.nn.Module:
        config = getattr(transformers, f"{kind}Config")(**{**TEXT, **changes})
        model: torch.nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
        return model

    return build


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
