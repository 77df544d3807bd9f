"""Qwen2.5-VL: Qwen2-VL with a vision tower that looks through windows.

The tower's norms are RMS norms without bias and its MLP is gated. Most of its layers see windows of
`window_size` pixels, those in `full_attention_layers` the whole image. Where the tower puts out the
decoder's width, its config says `out_hidden_size`; `hidden_size` is the width inside. The published
configs are flat: text keys stand at the top level.

Sources: transformers 4.57.6-5.24.0 `modeling_qwen2_5_vl.py`, saved and read back in nine versions;
arXiv:2502.13923 sec. 2.1 and table 1 for the sizes.
"""

from dovetail.declare.family import ConfigKeys, Family, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.decoder import HEAD, QWEN2_OF_VL, QWEN2_SIZES
from dovetail.families.history import litgpt_layout, qwen_vl_layouts
from dovetail.families.qwen2_vl import HUB_VISION, TOKENS, mrope
from dovetail.families.qwen2_vl import SETTINGS as QWEN2_VL_SETTINGS

_WHY = "qwen2_5_vl convention"

VIT = Part(
    id="qwen2_5_vit",
    purpose="tower",
    table="""
    patch_embed.weight                           d_vision channels frames patch patch
    blocks.{layer}.(norm1|norm2).weight          d_vision
    blocks.{layer}.attn.qkv.(weight|bias)        (3 d_vision) d_vision | (3 d_vision)
    blocks.{layer}.attn.o.(weight|bias)          d_vision d_vision | d_vision
    blocks.{layer}.mlp.(gate|up).(weight|bias)   d_ff d_vision | d_ff
    blocks.{layer}.mlp.down.(weight|bias)        d_vision d_ff | d_vision
    """,
    namings={
        "hf": Naming("""
        patch_embed.weight                           patch_embed.proj.weight
        blocks.{layer}.(norm1|norm2).weight          blocks.{layer}.(norm1|norm2).weight
        blocks.{layer}.attn.qkv.(weight|bias)        blocks.{layer}.attn.qkv.(weight|bias)
        blocks.{layer}.attn.o.(weight|bias)          blocks.{layer}.attn.proj.(weight|bias)
        blocks.{layer}.mlp.(gate|up|down).(weight|bias)  blocks.{layer}.mlp.(gate_proj|up_proj|down_proj).(weight|bias)
        -                                            rotary_pos_emb.inv_freq               buffer
        """)
    },
    facts=Facts(
        spellings=parse_spellings("""
        d_vision    hidden_size
        layers      depth
        heads       num_heads
        patch       patch_size | spatial_patch_size
        frames      temporal_patch_size
        channels    in_channels | in_chans
        d_ff        intermediate_size
        """),
        open_dims={"heads": "d_vision"},
        settings=(
            Setting("norm_eps", (), 1e-6, "written into modeling_qwen2_5_vl.py; no config says it"),
            Setting("activation", ("hidden_act",), "silu", _WHY),
            Setting("window_size", ("window_size",), 112, _WHY),
            Setting("full_attention_layers", ("fullatt_block_indexes",), [7, 15, 23, 31], _WHY),
        ),
        conventions=(("heads", 16, _WHY),),
    ),
)

MERGER = Part(
    id="rms_patch_merger",
    purpose="connector",
    table="""
    norm.weight                                  d_in
    fc1.(weight|bias)                            (merge_area d_in) (merge_area d_in) | (merge_area d_in)
    fc2.(weight|bias)                            d_out (merge_area d_in) | d_out
    """,
    namings={
        "hf": Naming("""
        norm.weight                                  ln_q.weight
        (fc1|fc2).(weight|bias)                      mlp.(0|2).(weight|bias)
        """)
    },
    facts=Facts(
        spellings=parse_spellings("""
        merge_area  spatial_merge_size * spatial_merge_size
        d_out       out_hidden_size
        """),
        sizes={"qwen2.5-vl": {"merge_area": 4}},
    ),
)

SETTINGS = (
    *QWEN2_VL_SETTINGS,
    # transformers@5.23.0 configuration_qwen2_5_vl.py takes 4 where a config is silent.
    Setting("tokens_per_second", ("vision_config.tokens_per_second",), 2, _WHY, 4),
)


def _vision(d_ff: int) -> dict[str, int | str]:
    sizes = {
        "d_vision": 1280,
        "layers": 32,
        "heads": 16,
        "d_ff": d_ff,
        "patch": 14,
        "frames": 2,
        "channels": 3,
    }
    return scoped("vision", sizes)


FAMILY = Family(
    id="qwen2_5_vl",
    title="Qwen2.5-VL",
    parts={"vision": (VIT,), "merger": (MERGER,), "text": (QWEN2_OF_VL,), "head": (HEAD,)},
    joints="""
    merger.d_in = vision.d_vision
    merger.d_out = text.d_model
    """,
    tied_heads={"head": "text"},
    layouts=(
        *qwen_vl_layouts(saved="4.57-5.3 and 5.6-5.24", bug="5.4.0-5.5.4", since="4.57"),
        litgpt_layout("litgpt", HUB_VISION),
    ),
    config=ConfigKeys(
        model_types=("qwen2_5_vl",),
        architecture="Qwen2_5_VLForConditionalGeneration",
        write_roots={"text": "", "head": ""},
        constants={
            **TOKENS,
            "vision_token_id": 151654,
            "rope_scaling": mrope,
            "vision_config.tokens_per_second": 2,
        },
        roots={
            "text": ("text_config", ""),
            "head": ("text_config", ""),
            "vision": ("vision_config",),
            "merger": ("vision_config",),
        },
    ),
    sizes={
        name: {
            **_vision(d_ff),
            **scoped("text", QWEN2_SIZES[text]),
            "merger.merge_area": 4,
            **({} if name == "3b" else {"head": "head"}),
        }
        for name, text, d_ff in (
            ("3b", "qwen2.5-3b", 3420),
            ("7b", "qwen2-7b", 3420),
            ("32b", "qwen2.5-32b", 3456),
            ("72b", "qwen2-72b", 3456),
        )
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.qwen2_5_vl:Qwen25VL",
    inputs="dovetail.inputs.qwen_vl:QwenVLInputs",
    sources=("arXiv:2502.13923", "transformers@5.23.0 modeling_qwen2_5_vl.py"),
)
