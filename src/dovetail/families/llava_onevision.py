"""LLaVA-OneVision: a SigLIP tower short of its last block, a two-layer projector, a Qwen2 decoder.

`alternating` and `alternating_cross` are the same tensors under another attention schedule: which one
a file is stands in the `model_type` of its config and nowhere else.

Sources: transformers 4.45.2-5.23.0 `modeling_llava_onevision.py`, saved and read back in six versions;
LLaVA-VL/LLaVA-NeXT `llava/model/`; mavleo96/LLaVA-Alternating-Attn@ffa93fe for the two variants;
arXiv:2408.03326.
"""

from collections.abc import Mapping
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.dialect import Dialect
from dovetail.declare.family import ConfigKeys, Family, Mount, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.decoder import HEAD, QWEN2, QWEN2_SIZES
from dovetail.families.history import llava_layouts
from dovetail.families.siglip import IMAGE_SETTINGS, SIGLIP
from dovetail.families.siglip import SIZES as SIGLIP_SIZES

# Features of several depths of the tower (`levels`) are joined on their channels.
_PROJECTOR_FACTS = Facts(
    spellings=parse_spellings("d_in  mm_hidden_size\nlevels  len(vision_feature_layer)"),
    settings=(Setting("activation", ("projector_hidden_act",), "gelu", "llava convention, exact"),),
    conventions=(("levels", 1, "llava convention"),),
)
PROJECTOR = Part(
    id="mlp2x_gelu",
    purpose="connector",
    table="""
    fc1.(weight|bias)          d_out (levels d_in) | d_out
    fc2.(weight|bias)          d_out d_out | d_out
    """,
    namings={
        "hf": Naming("(fc1|fc2).(weight|bias)  (linear_1|linear_2).(weight|bias)"),
        "lmms": Naming("(fc1|fc2).(weight|bias)  (0|2).(weight|bias)"),
    },
    facts=_PROJECTOR_FACTS,
)
# Both biases of a file may be lost; only a config that says so makes it a projector without.
PLAIN_PROJECTOR = Part(
    id="mlp2x_gelu_plain",
    purpose="connector",
    table="""
    fc1.weight                 d_out (levels d_in)
    fc2.weight                 d_out d_out
    """,
    namings={
        "hf": Naming("(fc1|fc2).weight  (linear_1|linear_2).weight"),
        "lmms": Naming("(fc1|fc2).weight  (0|2).weight"),
    },
    facts=_PROJECTOR_FACTS,
).only_where_named("multimodal_projector_bias", False)


def projector_bias(plan: Blueprint) -> bool | None:
    """What a config says of the projector where it has no biases."""
    return False if plan.kinds["projector"].id == PLAIN_PROJECTOR.id else None


NEWLINE = Part(
    id="newline",
    purpose="connector",
    table="image_newline  d_model",
    namings={"hf": Naming("image_newline  image_newline")},
)

_WHY = "llava_onevision convention"
# What a tile grid may cover: 1 to 6 tiles of 384 pixels each way, as (height, width).
_PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]

SETTINGS = (
    Setting("image_token", ("image_token_index", "image_token_id"), 151646, _WHY),
    Setting("video_token", ("video_token_index", "video_token_id"), 151647, _WHY),
    Setting("grid_pinpoints", ("image_grid_pinpoints",), _PINPOINTS, _WHY),
    Setting("aspect_ratio", ("vision_aspect_ratio", "image_aspect_ratio"), "anyres_max_9", _WHY),
    # LLaVA-NeXT's siglip_encoder.py does not look at `mm_vision_select_layer`, which says -2
    Setting("feature_layer", ("vision_feature_layer",), -1, _WHY),
    Setting("feature_select", ("vision_feature_select_strategy",), "full", _WHY),
    Setting(
        "layer_masks",
        ("layer_masks",),
        "by variant",
        "alternating variants: odd layers but the last (LLaVA-Alternating-Attn@b14d498)",
    ),
    *IMAGE_SETTINGS,
)


def lmms_config(plan: Blueprint, config: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """The config as LLaVA-NeXT's `LlavaQwenConfig` has it: Qwen2's keys at the top, `mm_*` for the rest.

    That of transformers where LLaVA-NeXT has no such projector.

    Source: LLaVA-NeXT `llava/model/language_model/llava_qwen.py`, `llava_arch.py`.
    """
    if projector_limit(plan):
        return dict(config)
    return at_the_top(
        config,
        model_type="llava_qwen",
        architectures=["LlavaQwenForCausalLM"],
        **tower_by_name(plan, *_TOWER),
        mm_hidden_size=plan.dims("projector")["d_in"],
        mm_projector_type="mlp2x_gelu",
        mm_patch_merge_type="spatial_unpad",
        mm_vision_select_layer=-2,
        mm_vision_select_feature="patch",
        image_aspect_ratio=config["vision_aspect_ratio"],
    )


def at_the_top(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A config with the keys of its text at the top, as the LLaVA projects have it."""
    kept = {key: value for key, value in config.items() if key != "text_config"}
    return {**kept, **config["text_config"], **more}


def tower_by_name(plan: Blueprint, name: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The tower, which the LLaVA projects load by name; none where it is of other sizes."""
    is_other = "vision" in plan.kinds and tower_limit(plan, name, sizes)
    return {} if is_other else {"mm_vision_tower": name}


def tower_limit(plan: Blueprint, name: str, sizes: Mapping[str, int]) -> str | None:
    """What keeps a LLaVA project from building the tower: it loads one by name and knows no sizes."""
    tower = plan.dims("vision") if "vision" in plan.kinds else {}
    if all(tower.get(dim, size) == size for dim, size in sizes.items() if dim != "layers"):
        return None
    return f"its tower is loaded by name, {name}, and this one has other sizes"


def projector_limit(plan: Blueprint) -> str | None:
    """What keeps a LLaVA project from building the projector: it has biases, and reads one layer."""
    if "projector" not in plan.kinds:
        return None
    if plan.kinds["projector"].id == PLAIN_PROJECTOR.id:
        return "its projector has no biases"
    levels = plan.sizes["projector.levels"]
    return None if levels == 1 else f"its projector joins features of {levels} layers"


_TOWER = ("google/siglip-so400m-patch14-384", SIGLIP_SIZES["so400m-patch14-378"])
LLAVA_NEXT = Dialect(
    lambda config: str(config.get("model_type")).startswith("llava_qwen"),
    lmms_config,
    lambda plan: projector_limit(plan) or tower_limit(plan, *_TOWER),
)


FAMILY = Family(
    id="llava_onevision",
    title="LLaVA-OneVision",
    parts={
        "vision": (SIGLIP,),
        "projector": (PROJECTOR, PLAIN_PROJECTOR),
        "newline": (NEWLINE,),
        "text": (QWEN2,),
        "head": (HEAD,),
    },
    joints="""
    projector.d_in = vision.d_vision
    projector.d_out = text.d_model
    newline.d_model = text.d_model
    """,
    tied_heads={"head": "text"},
    variants={
        "llava_onevision": "base",
        "llava_qwen": "base",
        "llava_qwen_with_alternating_attn": "alternating",
        "llava_qwen_with_alternating_cross_attn": "alternating_cross",
    },
    layouts=llava_layouts(
        newline=True,
        since="4.45",
        others=(
            layout(
                "lmms",
                {
                    "vision": "model.vision_tower.vision_tower.vision_model.",
                    "projector": Mount("model.mm_projector.", "lmms"),
                    "newline": "model.",
                    "text": "model.",
                    "head": "lm_head.",
                },
                note="LLaVA-NeXT and its forks (lmms-lab on the hub)",
                dialect=LLAVA_NEXT,
                readers=("llava",),
            ),
        ),
    ),
    config=ConfigKeys(
        model_types=(
            "llava_onevision",
            "llava_qwen",
            "llava_qwen_with_alternating_attn",
            "llava_qwen_with_alternating_cross_attn",
        ),
        architecture="LlavaOnevisionForConditionalGeneration",
        constants={
            "text_config.model_type": "qwen2",
            "vision_config.model_type": "siglip_vision_model",
            "vision_config.vision_use_head": False,
            "vision_feature_layer": -1,
            "multimodal_projector_bias": projector_bias,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": _PINPOINTS,
            "image_token_index": 151646,
            "video_token_index": 151647,
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
            **scoped("vision", {**SIGLIP_SIZES["so400m-patch14-378"], "layers": 26}),
            "projector.levels": 1,
            **scoped("text", QWEN2_SIZES[text]),
            **({} if name == "0.5b" else {"head": "head"}),
        }
        for name, text in (("0.5b", "qwen2-0.5b"), ("7b", "qwen2-7b"), ("72b", "qwen2-72b"))
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.llava_onevision:LlavaOnevision",
    inputs="dovetail.inputs.llava_onevision:LlavaOnevisionInputs",
    sources=(
        "arXiv:2408.03326",
        "LLaVA-VL/LLaVA-NeXT llava_arch.py",
        "transformers@5.23.0 modeling_llava_onevision.py",
    ),
)
