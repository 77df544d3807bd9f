"""Qwen2-VL: a vision tower without positions of its own, a 2x2 patch merger, a Qwen2 decoder.

The vision tower's `embed_dim` is its width; `hidden_size` in its config is the width it puts out, that
of the decoder. The published Qwen2-VL config is flat: text keys stand at the top level.

Sources: transformers 4.45.2-5.23.0 `modeling_qwen2_vl.py`, saved and read back in six versions;
transformers#45357 for the save bug that `hf-5.5.3-bug` stands for; a fork of MDI-LLM for `litgpt-fork`;
arXiv:2409.12191.
"""

from collections.abc import Mapping
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ConfigKeys, Family, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.decoder import HEAD, QWEN2_OF_VL, QWEN2_SIZES
from dovetail.families.history import litgpt_layout, qwen_vl_layouts
from dovetail.families.siglip import CLIP_PIXELS, image_settings

VIT = Part(
    id="qwen2_vit",
    purpose="tower",
    table="""
    patch_embed.weight                           d_vision channels frames patch patch
    blocks.{layer}.norm1.(weight|bias)           d_vision
    blocks.{layer}.attn.qkv.(weight|bias)        (3 d_vision) d_vision | (3 d_vision)
    blocks.{layer}.attn.o.(weight|bias)          d_vision d_vision | d_vision
    blocks.{layer}.norm2.(weight|bias)           d_vision
    blocks.{layer}.mlp.fc1.(weight|bias)         d_ff d_vision | d_ff
    blocks.{layer}.mlp.fc2.(weight|bias)         d_vision d_ff | d_vision
    """,
    namings={
        "hf": Naming("""
        patch_embed.weight                           patch_embed.proj.weight
        blocks.{layer}.norm1.(weight|bias)           blocks.{layer}.norm1.(weight|bias)
        blocks.{layer}.attn.qkv.(weight|bias)        blocks.{layer}.attn.qkv.(weight|bias)
        blocks.{layer}.attn.o.(weight|bias)          blocks.{layer}.attn.proj.(weight|bias)
        blocks.{layer}.norm2.(weight|bias)           blocks.{layer}.norm2.(weight|bias)
        blocks.{layer}.mlp.(fc1|fc2).(weight|bias)   blocks.{layer}.mlp.(fc1|fc2).(weight|bias)
        -                                            rotary_pos_emb.inv_freq               buffer
        """)
    },
    facts=Facts(
        spellings=parse_spellings("""
        d_vision    embed_dim
        layers      depth
        heads       num_heads
        patch       patch_size | spatial_patch_size
        frames      temporal_patch_size
        channels    in_channels | in_chans
        d_ff        mlp_ratio * embed_dim
        """),
        open_dims={"heads": "d_vision"},
        settings=(
            Setting("norm_eps", ("layer_norm_eps",), 1e-6, "qwen2_vl convention"),
            Setting("activation", ("hidden_act",), "quick_gelu", "qwen2_vl convention"),
        ),
        sizes={
            "qwen2-vl": {
                "d_vision": 1280,
                "layers": 32,
                "heads": 16,
                "d_ff": 5120,
                "patch": 14,
                "frames": 2,
                "channels": 3,
            }
        },
        conventions=(("heads", 16, "qwen2_vl convention"),),
    ),
)

MERGER = Part(
    id="patch_merger",
    purpose="connector",
    table="""
    norm.(weight|bias)                           d_in
    fc1.(weight|bias)                            (merge_area d_in) (merge_area d_in) | (merge_area d_in)
    fc2.(weight|bias)                            d_out (merge_area d_in) | d_out
    """,
    namings={
        "hf": Naming("""
        norm.(weight|bias)                           ln_q.(weight|bias)
        (fc1|fc2).(weight|bias)                      mlp.(0|2).(weight|bias)
        """)
    },
    facts=Facts(
        spellings=parse_spellings("""
        merge_area  spatial_merge_size * spatial_merge_size
        d_out       hidden_size
        """),
        sizes={"qwen2-vl": {"merge_area": 4}},
    ),
)


def mrope(plan: Blueprint) -> dict[str, object]:
    """The sections of the rotary angles for time, height and width: 16, 24, 24 of 64 (arXiv:2409.12191)."""
    half = plan.sizes["text.head_dim"] // 2
    side = half * 3 // 8
    return {"type": "mrope", "mrope_section": [half - 2 * side, side, side]}


def mdi_fields(plan: Blueprint, known: Mapping[str, Any]) -> dict[str, object]:
    """What a fork of MDI-LLM adds to LitGPT's config for the vision tower and its tokens."""
    vision = plan.dims("vision")
    return {
        "vision_encoder_embed_dim": vision["d_vision"],
        "vision_encoder_depth": vision["layers"],
        "vision_encoder_num_heads": vision["heads"],
        "vision_patch_size": vision["patch"],
        "vision_start_token_id": known["vision_start_token"],
        "vision_end_token_id": known["vision_end_token"],
        "image_token_id": known["image_token"],
        "use_mrope": True,
    }


_WHY = "qwen2_vl convention"


def mrope_keys(key: str) -> tuple[str, ...]:
    """Where the configs of the Qwen-VL families say something of M-RoPE."""
    return tuple(
        f"{section}{scaling}.{key}"
        for scaling in ("rope_scaling", "rope_parameters")
        for section in ("", "text_config.")
    )


# The tokens that stand for an image and a video or around one, the same in all Qwen-VL families.
TOKENS = {
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
}


def token_settings(why: str) -> tuple[Setting, ...]:
    """`TOKENS` as settings, which a config may say otherwise."""
    return tuple(Setting(key.removesuffix("_id"), (key,), id, why) for key, id in TOKENS.items())


def pixel_settings(smallest: int, largest: int, why: str) -> tuple[Setting, ...]:
    """How many pixels an image may have."""
    return (
        Setting("min_pixels", ("min_pixels", "size.shortest_edge"), smallest, why),
        Setting("max_pixels", ("max_pixels", "size.longest_edge"), largest, why),
    )


SETTINGS = (
    *token_settings(_WHY),
    Setting("mrope_section", mrope_keys("mrope_section"), [16, 24, 24], _WHY),
    *pixel_settings(56 * 56, 28 * 28 * 1280, "Qwen2VLImageProcessor default"),
    *image_settings(*CLIP_PIXELS, "CLIP's, qwen2_vl convention"),
)

HUB_VISION = {"vision": "visual.", "merger": "visual.merger."}

FAMILY = Family(
    id="qwen2_vl",
    title="Qwen2-VL",
    parts={"vision": (VIT,), "merger": (MERGER,), "text": (QWEN2_OF_VL,), "head": (HEAD,)},
    joints="""
    merger.d_in = vision.d_vision
    merger.d_out = text.d_model
    """,
    tied_heads={"head": "text"},
    layouts=(
        *qwen_vl_layouts(saved="4.45-5.3 and 5.6-5.23", bug="5.4.0-5.5.4", since="4.45"),
        layout(
            "hf-5.5.3-bug",
            {
                "vision": "model.language_model.visual.",
                "merger": "model.language_model.visual.merger.",
                "text": "model.language_model.",
                "head": "lm_head.",
            },
            writable=False,
            note="vision under the language model, a save bug of transformers 5.5.0-5.5.3 (transformers#45357: "
            "seen of Qwen3.5, not of Qwen2-VL)",
        ),
        *(litgpt_layout(naming, HUB_VISION) for naming in ("litgpt", "litgpt-legacy", "litgpt-fork")),
    ),
    config=ConfigKeys(
        model_types=("qwen2_vl",),
        architecture="Qwen2VLForConditionalGeneration",
        write_roots={"text": "", "head": ""},
        constants={
            **TOKENS,
            "vision_token_id": 151654,
            "rope_scaling": mrope,
        },
        litgpt=mdi_fields,
        roots={
            "text": ("text_config", ""),
            "head": ("text_config", ""),
            "vision": ("vision_config",),
            "merger": ("vision_config",),
        },
    ),
    sizes={
        name: {
            **scoped("vision", VIT.facts.sizes["qwen2-vl"]),
            **scoped("text", QWEN2_SIZES[text]),
            "merger.merge_area": 4,
            **({} if name == "2b" else {"head": "head"}),
        }
        for name, text in (("2b", "qwen2-1.5b"), ("7b", "qwen2-7b"), ("72b", "qwen2-72b"))
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.qwen2_vl:Qwen2VL",
    inputs="dovetail.inputs.qwen_vl:QwenVLInputs",
    sources=("arXiv:2409.12191", "transformers@5.23.0 modeling_qwen2_vl.py", "transformers#45357"),
)
