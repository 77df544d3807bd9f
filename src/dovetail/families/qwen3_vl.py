"""Qwen3-VL, the dense sizes: features of four depths of its vision tower reach the decoder.

The tower has learned positions, which it interpolates to the grid of each image, besides rotary ones.
One merger stands behind its last layer, and one (`deepstack`) behind each of three layers inside: what
these put out is added to the image tokens after the first three layers of the decoder, a Qwen3. So a
model that is cut over several machines sends the deepstack features along with the stream, as far as
the layer that adds the last of them.

M-RoPE deals the rotary angles to time, height and width in turn, not in sections.

Sources: transformers 4.57.6-5.24.0 `modeling_qwen3_vl.py`, saved and read back in nine versions;
arXiv:2511.21631; arXiv:2406.04334 (DeepStack).
"""

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ConfigKeys, Family, Pipeline, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.decoder import HEAD, QWEN3_OF_VL, QWEN3_SIZES
from dovetail.families.history import bare_qwen_vl, hub_readers, litgpt_layout
from dovetail.families.qwen2_vl import TOKENS, mrope_keys, pixel_settings, token_settings
from dovetail.families.siglip import HALF_PIXELS, image_settings

_WHY = "qwen3_vl convention"

VIT = Part(
    id="qwen3_vit",
    purpose="tower",
    table="""
    patch_embed.(weight|bias)                    d_vision channels frames patch patch | d_vision
    pos_embed.weight                             positions d_vision
    blocks.{layer}.(norm1|norm2).(weight|bias)   d_vision
    blocks.{layer}.attn.qkv.(weight|bias)        (3 d_vision) d_vision | (3 d_vision)
    blocks.{layer}.attn.o.(weight|bias)          d_vision d_vision | d_vision
    blocks.{layer}.mlp.fc1.(weight|bias)         d_ff d_vision | d_ff
    blocks.{layer}.mlp.fc2.(weight|bias)         d_vision d_ff | d_vision
    """,
    namings={
        "hf": Naming("""
        patch_embed.(weight|bias)                    patch_embed.proj.(weight|bias)
        pos_embed.weight                             pos_embed.weight
        blocks.{layer}.(norm1|norm2).(weight|bias)   blocks.{layer}.(norm1|norm2).(weight|bias)
        blocks.{layer}.attn.qkv.(weight|bias)        blocks.{layer}.attn.qkv.(weight|bias)
        blocks.{layer}.attn.o.(weight|bias)          blocks.{layer}.attn.proj.(weight|bias)
        blocks.{layer}.mlp.(fc1|fc2).(weight|bias)   blocks.{layer}.mlp.(linear_fc1|linear_fc2).(weight|bias)
        -                                            rotary_pos_emb.inv_freq               buffer
        """)
    },
    facts=Facts(
        spellings=parse_spellings("""
        d_vision    hidden_size
        layers      depth
        heads       num_heads
        patch       patch_size
        frames      temporal_patch_size
        channels    in_channels
        d_ff        intermediate_size
        positions   num_position_embeddings
        """),
        open_dims={"heads": "d_vision"},
        settings=(
            Setting("norm_eps", (), 1e-6, "written into modeling_qwen3_vl.py; no config says it"),
            Setting("activation", ("hidden_act",), "gelu_pytorch_tanh", _WHY),
        ),
        conventions=(("heads", 16, _WHY),),
    ),
)

_MERGER_FACTS = Facts(
    spellings=parse_spellings("""
    merge_area  spatial_merge_size * spatial_merge_size
    d_out       out_hidden_size
    """),
    sizes={"qwen3-vl": {"merge_area": 4}},
)

MERGER = Part(
    id="qwen3_merger",
    purpose="connector",
    table="""
    norm.(weight|bias)                           d_in
    fc1.(weight|bias)                            (merge_area d_in) (merge_area d_in) | (merge_area d_in)
    fc2.(weight|bias)                            d_out (merge_area d_in) | d_out
    """,
    namings={
        "hf": Naming("""
        norm.(weight|bias)                           norm.(weight|bias)
        (fc1|fc2).(weight|bias)                      (linear_fc1|linear_fc2).(weight|bias)
        """)
    },
    facts=_MERGER_FACTS,
)

# The norm of these comes after the patches are joined: it has the width of all of them.
DEEPSTACK = Part(
    id="qwen3_deepstack",
    purpose="connector",
    table="""
    {level}.norm.(weight|bias)                   (merge_area d_in)
    {level}.fc1.(weight|bias)                    (merge_area d_in) (merge_area d_in) | (merge_area d_in)
    {level}.fc2.(weight|bias)                    d_out (merge_area d_in) | d_out
    """,
    namings={
        "hf": Naming("""
        {level}.norm.(weight|bias)                   {level}.norm.(weight|bias)
        {level}.(fc1|fc2).(weight|bias)              {level}.(linear_fc1|linear_fc2).(weight|bias)
        """)
    },
    facts=_MERGER_FACTS._replace(
        spellings={**_MERGER_FACTS.spellings, "levels": ("len(deepstack_visual_indexes)",)},
        settings=(Setting("vision_layers", ("deepstack_visual_indexes",)),),
    ),
)

# depth of the tower -> behind which of its layers the mergers stand, as published
_LEVELS = {24: [5, 11, 17], 27: [8, 16, 24]}


def vision_layers(plan: Blueprint) -> list[int]:
    """Behind which layers of the tower the deepstack mergers stand; evenly spread in sizes nobody published."""
    depth, levels = plan.sizes["vision.layers"], plan.sizes["deepstack.levels"]
    published = _LEVELS.get(depth, [])
    if len(published) == levels:
        return published
    return [(2 * level + 1) * depth // (2 * levels) for level in range(levels)]


def mrope(plan: Blueprint) -> dict[str, object]:
    """How many angles time, height and width have: 24, 20, 20 of 64; dealt in turn, so h and w have a third."""
    half = plan.sizes["text.head_dim"] // 2
    side = half * 5 // 16
    return {"rope_type": "default", "mrope_section": [half - 2 * side, side, side], "mrope_interleaved": True}


SETTINGS = (
    *token_settings(_WHY),
    *pixel_settings(65_536, 16_777_216, "the published preprocessor_config.json"),
    Setting("mrope_section", mrope_keys("mrope_section"), [24, 20, 20], _WHY),
    Setting("mrope_interleaved", mrope_keys("mrope_interleaved"), True, _WHY),
    *image_settings(*HALF_PIXELS, "the published preprocessor_config.json"),
)


def _size(numbers: str) -> dict[str, int | str]:
    names = ("d_vision", "layers", "heads", "d_ff", "patch", "frames", "channels", "positions")
    vision = dict(zip(names, map(int, numbers.split()), strict=True))
    return {**scoped("vision", vision), "merger.merge_area": 4, "deepstack.levels": 3}


_SMALL = _size("1024 24 16 4096 16 2 3 2304")
_LARGE = _size("1152 27 16 4304 16 2 3 2304")
_VISION = {"vision": "model.visual.", "merger": "model.visual.merger."}
_DEEPSTACK = {"deepstack": "model.visual.deepstack_merger_list."}

FAMILY = Family(
    id="qwen3_vl",
    title="Qwen3-VL",
    parts={
        "vision": (VIT,),
        "merger": (MERGER,),
        "deepstack": (DEEPSTACK,),
        "text": (QWEN3_OF_VL,),
        "head": (HEAD,),
    },
    joints="""
    merger.d_in = vision.d_vision
    merger.d_out = text.d_model
    deepstack.d_in = vision.d_vision
    deepstack.d_out = text.d_model
    deepstack.merge_area = merger.merge_area
    """,
    tied_heads={"head": "text"},
    pipeline=Pipeline(carried=("deepstack",)),
    layouts=(
        layout(
            "hf",
            {**_VISION, **_DEEPSTACK, "text": "model.language_model.", "head": "lm_head."},
            note="the hub; transformers 4.57-5.24, on disk and in memory",
            readers=hub_readers("4.57"),
        ),
        bare_qwen_vl(vision="visual.", merger="visual.merger.", deepstack="visual.deepstack_merger_list."),
        litgpt_layout("litgpt", {**_VISION, **_DEEPSTACK}),
    ),
    config=ConfigKeys(
        model_types=("qwen3_vl",),
        architecture="Qwen3VLForConditionalGeneration",
        constants={
            **TOKENS,
            "text_config.model_type": "qwen3_vl_text",
            "text_config.rope_scaling": mrope,
            "vision_config.model_type": "qwen3_vl",
            "vision_config.deepstack_visual_indexes": vision_layers,
        },
        roots={
            "text": ("text_config",),
            "head": ("text_config",),
            "vision": ("vision_config",),
            "merger": ("vision_config",),
            "deepstack": ("vision_config",),
        },
    ),
    sizes={
        name: {**vision, **scoped("text", QWEN3_SIZES[text]), **({"head": "head"} if has_head else {})}
        for name, text, vision, has_head in (
            ("2b", "qwen3-1.7b", _SMALL, False),
            ("4b", "qwen3-4b", _SMALL, False),
            ("8b", "qwen3-8b", _LARGE, True),
            ("32b", "qwen3-32b", _LARGE, True),
        )
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.qwen3_vl:Qwen3VL",
    inputs="dovetail.inputs.qwen_vl:QwenVLInputs",
    sources=("arXiv:2511.21631", "arXiv:2406.04334", "transformers@5.23.0 modeling_qwen3_vl.py"),
)
