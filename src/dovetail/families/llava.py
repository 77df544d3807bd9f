"""LLaVA 1.5: CLIP's tower, a two-layer projector, a Llama decoder.

Where a config says so, the tower is SigLIP's, the decoder another, the projector without biases: a SigLIP
and a Qwen2 without that word would be a LLaVA-OneVision that lost its newline.

Haotian Liu's files leave the tower out where it was not trained: it is OpenAI's.

Sources: transformers 4.45.2-5.23.0 `modeling_llava.py`, saved and read back in six versions; haotian-liu/LLaVA
`llava/model/`; arXiv:2310.03744.
"""

import math
from collections.abc import Mapping
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.dialect import Dialect
from dovetail.declare.family import ConfigKeys, Family, Mount, layout, scoped
from dovetail.declare.part import Setting
from dovetail.families.clip import CLIP
from dovetail.families.clip import SIZES as CLIP_SIZES
from dovetail.families.decoder import GEMMA, HEAD, LLAMA, LLAMA_SIZES, MISTRAL, QWEN2, QWEN3
from dovetail.families.history import llava_layouts
from dovetail.families.llava_onevision import (
    PLAIN_PROJECTOR,
    PROJECTOR,
    at_the_top,
    projector_bias,
    projector_limit,
    tower_by_name,
    tower_limit,
)
from dovetail.families.siglip import CLIP_PIXELS, SIGLIP, has_pool, image_settings

_WHY = "llava 1.5 convention"
_SELECT = ("vision_feature_select_strategy", "mm_vision_select_feature")
_SELECTED = {"patch": "default", "cls_patch": "full"}  # LLaVA's words and those of transformers
_TOWER = ("openai/clip-vit-large-patch14-336", CLIP_SIZES["large-patch14-336"])

SETTINGS = (
    Setting("image_token", ("image_token_index", "image_token_id"), 32000, _WHY),
    Setting("feature_layer", ("vision_feature_layer", "mm_vision_select_layer"), -2, _WHY),
    Setting("feature_select", _SELECT, "default", _WHY, means=lambda said: _SELECTED.get(str(said), said)),
    *image_settings(*CLIP_PIXELS, "clip convention", do_center_crop=True),
)


def is_clip(plan: Blueprint) -> bool:
    """Whether the tower is CLIP's, with a token of the class before the patches."""
    return "vision" not in plan.kinds or plan.kinds["vision"].id == CLIP.id


def image_size(plan: Blueprint) -> int | None:
    """The edge in pixels that the positions of the tower cover, but for that of the class; None where all
    positions are of patches."""
    if not is_clip(plan):
        return None
    return math.isqrt(plan.sizes["vision.positions"] - 1) * plan.sizes["vision.patch"]


def llava_config(plan: Blueprint, config: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """The config as LLaVA's `LlavaConfig` has it: Llama's keys at the top, `mm_*` for the rest.

    That of transformers where LLaVA has no such parts.

    Source: haotian-liu/LLaVA `llava/model/language_model/llava_llama.py`, `llava_arch.py`.
    """
    if parts_limit(plan):
        return dict(config)
    words = {ours: word for word, ours in _SELECTED.items()}
    return at_the_top(
        config,
        model_type="llava_llama",
        architectures=["LlavaLlamaForCausalLM"],
        **tower_by_name(plan, *_TOWER),
        mm_hidden_size=plan.dims("projector")["d_in"],
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=config["vision_feature_layer"],
        mm_vision_select_feature=words[config["vision_feature_select_strategy"]],
        image_aspect_ratio="pad",
    )


def parts_limit(plan: Blueprint) -> str | None:
    """What keeps LLaVA from building a model of these kinds of parts."""
    if "vision" in plan.kinds and not is_clip(plan):
        return "its tower is no CLIP"
    kind = plan.kinds["text"].id
    return projector_limit(plan) if kind == LLAMA.id else f"its decoder is a {kind}, not a Llama"


LLAVA = Dialect(
    lambda config: config.get("model_type") == "llava_llama" or "mm_projector_type" in config,
    llava_config,
    lambda plan: parts_limit(plan) or tower_limit(plan, *_TOWER),
)

FAMILY = Family(
    id="llava",
    title="LLaVA 1.5",
    parts={
        "vision": (CLIP, SIGLIP.only_where_named("model_type", "siglip_vision_model")),
        "projector": (PROJECTOR, PLAIN_PROJECTOR),
        "text": (
            LLAMA,
            *(part.only_where_named("model_type", part.id) for part in (MISTRAL, QWEN2, QWEN3, GEMMA)),
        ),
        "head": (HEAD,),
    },
    joints="""
    projector.d_in = vision.d_vision
    projector.d_out = text.d_model
    """,
    tied_heads={"head": "text"},
    is_component=True,  # of LLaVA-NeXT, whose files hold all of it and a newline
    layouts=llava_layouts(
        since="4.36",
        others=(
            layout(
                "llava",
                {
                    "vision": "model.vision_tower.vision_tower.vision_model.",
                    "projector": Mount("model.mm_projector.", "lmms"),
                    "text": "model.",
                    "head": "lm_head.",
                },
                optional=("vision",),
                note="haotian-liu/LLaVA; no vision if the tower was frozen",
                dialect=LLAVA,
                readers=("llava",),
            ),
        ),
    ),
    config=ConfigKeys(
        model_types=("llava", "llava_llama"),
        architecture="LlavaForConditionalGeneration",
        constants={
            "text_config.model_type": lambda plan: plan.kinds["text"].id,
            "vision_config.model_type": lambda plan: (
                "clip_vision_model" if is_clip(plan) else "siglip_vision_model"
            ),
            "vision_config.vision_use_head": lambda plan: None if is_clip(plan) else has_pool(plan),
            "vision_config.image_size": image_size,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": lambda plan: "default" if is_clip(plan) else "full",
            "multimodal_projector_bias": projector_bias,
            "image_token_index": 32000,
        },
        roots={
            "vision": ("vision_config",),
            "projector": ("",),
            "text": ("text_config", ""),
            "head": ("text_config", ""),
        },
    ),
    sizes={
        name: {
            **scoped("vision", CLIP_SIZES["large-patch14-336"]),
            **scoped("text", {**LLAMA_SIZES[text], "vocab": 32064}),
            "head": "head",
            "projector.levels": 1,
        }
        for name, text in (("1.5-7b", "llama2-7b"), ("1.5-13b", "llama2-13b"))
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.llava:Llava",
    inputs="dovetail.inputs.llava:LlavaInputs",
    sources=("arXiv:2310.03744", "haotian-liu/LLaVA llava_arch.py", "transformers@5.23.0 modeling_llava.py"),
)
