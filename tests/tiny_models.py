"""Tiny models of transformers with random weights, one for each family that transformers runs."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

transformers.logging.set_verbosity_error()

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


_QWEN_TOKENS = {
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}


def qwen2_5_vl() -> torch.nn.Module:
    vision = {
        "depth": 3,
        "hidden_size": 24,
        "num_heads": 3,
        "intermediate_size": 40,
        "out_hidden_size": 32,
        "patch_size": 14,
        "window_size": 28,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 3,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=vision,
        **_QWEN_TOKENS,
        tie_word_embeddings=True,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl() -> torch.nn.Module:
    vision = {
        "depth": 4,
        "hidden_size": 24,
        "num_heads": 3,
        "intermediate_size": 40,
        "out_hidden_size": 32,
        "patch_size": 14,
        "num_position_embeddings": 9,
        "deepstack_visual_indexes": [0, 3],
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [2, 2, 1],
        "mrope_interleaved": True,
    }
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 10, "rope_parameters": rope},
        vision_config=vision,
        **_QWEN_TOKENS,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


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
        image_grid_pinpoints=[[28, 28], [28, 56]],
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
