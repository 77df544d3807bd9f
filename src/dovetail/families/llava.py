"""LLaVA 1.5: CLIP's tower, a two-layer projector, a Llama decoder.

Haotian Liu's files leave the tower out where it was not trained: it is OpenAI's.

Sources: transformers 4.45.2-5.23.0 `modeling_llava.py`, saved and read back in six versions; haotian-liu/LLaVA
`llava/model/`; arXiv:2310.03744.
"""

import math

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ConfigKeys, Family, Mount, layout, scoped
from dovetail.declare.part import Setting
from dovetail.families.clip import CLIP
from dovetail.families.clip import SIZES as CLIP_SIZES
from dovetail.families.decoder import HEAD, LLAMA, LLAMA_SIZES
from dovetail.families.history import llava_layouts
from dovetail.families.llava_onevision import PROJECTOR
from dovetail.families.siglip import CLIP_PIXELS, image_settings

_WHY = "llava 1.5 convention"
_SELECT = ("vision_feature_select_strategy", "mm_vision_select_feature")

SETTINGS = (
    Setting("image_token", ("image_token_index", "image_token_id"), 32000, _WHY),
    Setting("feature_layer", ("vision_feature_layer", "mm_vision_select_layer"), -2, _WHY),
    Setting("feature_select", _SELECT, "default", _WHY),
    *image_settings(*CLIP_PIXELS, "clip convention", do_center_crop=True),
)


def image_size(plan: Blueprint) -> int:
    """The edge in pixels that the positions of the tower cover, but for that of the class."""
    return math.isqrt(plan.sizes["vision.positions"] - 1) * plan.sizes["vision.patch"]


FAMILY = Family(
    id="llava",
    title="LLaVA 1.5",
    parts={"vision": (CLIP,), "projector": (PROJECTOR,), "text": (LLAMA,), "head": (HEAD,)},
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
            ),
        ),
    ),
    config=ConfigKeys(
        model_types=("llava", "llava_llama"),
        architecture="LlavaForConditionalGeneration",
        constants={
            "text_config.model_type": "llama",
            "vision_config.model_type": "clip_vision_model",
            "vision_config.image_size": image_size,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
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
        }
        for name, text in (("1.5-7b", "llama2-7b"), ("1.5-13b", "llama2-13b"))
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.llava:Llava",
    inputs="dovetail.inputs.llava:LlavaInputs",
    sources=("arXiv:2310.03744", "haotian-liu/LLaVA llava_arch.py", "transformers@5.23.0 modeling_llava.py"),
)
