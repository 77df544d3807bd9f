"""DINOv2 vision towers: by themselves, and the second eye of fused Prismatic models and OpenVLA.

A class token, optional registers, LayerScale after each branch. OpenVLA's export calls the LayerScale
`scale_factor`, because Hugging Face renames anything called `gamma`. The giant has a gated MLP. Hugging Face
keeps the token of masked patches, which only pre-training uses, and gives the class token a position, where
timm's towers with registers have none.

Sources: timm@1.0.31 `vision_transformer.py` (`vit_large_patch14_reg4_dinov2`, `vit_giant_patch14_dinov2`);
transformers@5.23.0 `modeling_{dinov2,dinov2_with_registers}.py`; openvla@HEAD
`vla-scripts/extern/convert_openvla_weights_to_hf.py`; arXiv:2304.07193.
"""

import math

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ONE_FILE, ConfigKeys, Family, Mount, Pipeline, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families import timm
from dovetail.families.siglip import BLOCKS, IMAGE_SIZE, IMAGENET_PIXELS, TIMM_BLOCKS, image_settings

LEAVES = (
    """
cls_token                                    1 1 d_vision
reg_token                                    1 registers d_vision                        if registers
patch_embed.(weight|bias)                    d_vision channels patch patch | d_vision
pos_embed.weight                             positions d_vision
blocks.{layer}.(scale1|scale2)               d_vision                   init ones
"""
    + BLOCKS
)
# What only pre-training uses.
MASK_TOKEN = "mask_token  1 d_vision  if mask_token, dead, init zeros"
GATED_LEAVES = (
    "\n".join(row for row in LEAVES.splitlines() if ".mlp." not in row)
    + """
blocks.{layer}.mlp.(gate|up).(weight|bias)   d_ff d_vision | d_ff
blocks.{layer}.mlp.down.(weight|bias)        d_vision d_ff | d_vision
"""
)

_SHARED = (
    TIMM_BLOCKS
    + """
cls_token                                    cls_token
reg_token                                    reg_token
"""
)
TIMM = Naming(_SHARED + "blocks.{layer}.(scale1|scale2)  blocks.{layer}.(ls1|ls2).gamma")
OPENVLA = Naming(_SHARED + "blocks.{layer}.(scale1|scale2)  blocks.{layer}.(ls1|ls2).scale_factor")

_HF_BODY = """
cls_token                                    embeddings.cls_token
mask_token                                   embeddings.mask_token
reg_token                                    embeddings.register_tokens
patch_embed.(weight|bias)                    embeddings.patch_embeddings.projection.(weight|bias)
pos_embed.weight                             embeddings.position_embeddings             as 1 positions d_vision
blocks.{layer}.norm1.(weight|bias)           encoder.layer.{layer}.norm1.(weight|bias)
blocks.{layer}.attn.(q|k|v).(weight|bias)    encoder.layer.{layer}.attention.attention.(query|key|value).(weight|bias)
blocks.{layer}.attn.o.(weight|bias)          encoder.layer.{layer}.attention.output.dense.(weight|bias)
blocks.{layer}.(scale1|scale2)               encoder.layer.{layer}.(layer_scale1|layer_scale2).lambda1
blocks.{layer}.norm2.(weight|bias)           encoder.layer.{layer}.norm2.(weight|bias)
norm.(weight|bias)                           layernorm.(weight|bias)
"""
HF = Naming(
    _HF_BODY
    + """
blocks.{layer}.mlp.(fc1|fc2).(weight|bias)   encoder.layer.{layer}.mlp.(fc1|fc2).(weight|bias)
"""
)
_GATED_HF = Naming(
    _HF_BODY
    + """
blocks.{layer}.mlp.[gate up].weight          encoder.layer.{layer}.mlp.weights_in.weight   concat
blocks.{layer}.mlp.[gate up].bias            encoder.layer.{layer}.mlp.weights_in.bias     concat
blocks.{layer}.mlp.down.(weight|bias)        encoder.layer.{layer}.mlp.weights_out.(weight|bias)
"""
)
# transformers 5.23 has other names in memory than on disk.
_MEMORY_BODY = (
    "\n".join(row for row in _HF_BODY.splitlines() if ".attn." not in row)
    + """
blocks.{layer}.attn.(q|k|v|o).(weight|bias)  encoder.layer.{layer}.attention.(q_proj|k_proj|v_proj|o_proj).(weight|bias)
"""
)
IN_MEMORY = Naming(
    _MEMORY_BODY
    + """
blocks.{layer}.mlp.(fc1|fc2).(weight|bias)   encoder.layer.{layer}.mlp.(fc1|fc2).(weight|bias)
"""
)
_GATED_IN_MEMORY = Naming(
    _MEMORY_BODY
    + """
blocks.{layer}.mlp.(gate|up|down).(weight|bias)  encoder.layer.{layer}.mlp.(gate_proj|up_proj|down_proj).(weight|bias)
"""
)
_GATED_TIMM = Naming(
    "\n".join(row for row in _SHARED.splitlines() if ".mlp." not in row)
    + """
blocks.{layer}.(scale1|scale2)               blocks.{layer}.(ls1|ls2).gamma
blocks.{layer}.mlp.[gate up].weight          blocks.{layer}.mlp.fc1.weight                 concat
blocks.{layer}.mlp.[gate up].bias            blocks.{layer}.mlp.fc1.bias                   concat
blocks.{layer}.mlp.down.(weight|bias)        blocks.{layer}.mlp.fc2.(weight|bias)
"""
)

SIZES = {
    "large-patch14-reg4": {
        "d_vision": 1024,
        "layers": 24,
        "heads": 16,
        "d_ff": 4096,
        "patch": 14,
        "positions": 256,
        "channels": 3,
        "registers": 4,
    },
}

DINOV2 = Part(
    id="dinov2",
    purpose="tower",
    table=LEAVES,
    namings={"timm": TIMM, "openvla": OPENVLA},
    optional=("registers",),
    facts=Facts(
        spellings=parse_spellings(
            "d_vision  embed_dim\nheads  num_attention_heads | num_heads | model_args.num_heads"
        ),
        open_dims={"heads": "d_vision"},
        settings=(
            Setting("norm_eps", ("layer_norm_eps",), 1e-6, "dinov2 convention"),
            Setting("activation", ("hidden_act",), "gelu", "dinov2 convention, exact"),
            Setting("antialias", (), True, "as timm interpolates positions"),
            IMAGE_SIZE._replace(spellings=()),
        ),
        sizes=SIZES,
        conventions=(("heads", 16, "dinov2 large convention"),),
    ),
)

_ALONE = DINOV2.facts._replace(
    spellings=parse_spellings("""
    d_vision    hidden_size | embed_dim
    layers      num_hidden_layers
    heads       num_attention_heads | num_heads | model_args.num_heads
    patch       patch_size
    channels    num_channels
    d_ff        mlp_ratio * hidden_size
    registers   num_register_tokens
    """),
    settings=(
        *DINOV2.facts.settings[:2],
        Setting("antialias", (), True, "as timm interpolates positions", unsaid=False),
        DINOV2.facts.settings[3],
    ),
)
ALONE = Part(
    id="dinov2",
    purpose="tower",
    table=LEAVES + MASK_TOKEN,
    namings={"timm": TIMM, "hf": HF, "hf-mem": IN_MEMORY},
    optional=("registers", "mask_token"),
    facts=_ALONE,
)
GATED = Part(
    id="dinov2_gated",
    purpose="tower",
    table=GATED_LEAVES + MASK_TOKEN,
    namings={"timm": _GATED_TIMM, "hf": _GATED_HF, "hf-mem": _GATED_IN_MEMORY},
    optional=("registers", "mask_token"),
    facts=_ALONE._replace(
        spellings={name: keys for name, keys in _ALONE.spellings.items() if name != "d_ff"},
        settings=(
            _ALONE.settings[0],
            Setting("activation", (), "silu", "written into transformers' SwiGLU"),
            *_ALONE.settings[2:],
        ),
        sizes={},
        conventions=(("heads", 24, "dinov2 giant convention"),),
    ),
)


def has_registers(plan: Blueprint) -> bool:
    """Whether there are registers, and so another class of transformers."""
    return "registers" in plan.features["vision"]


def image_size(plan: Blueprint) -> int:
    """The edge in pixels that the positions cover, but for those of tokens before the patches."""
    return math.isqrt(plan.sizes["vision.positions"]) * plan.sizes["vision.patch"]


FAMILY = Family(
    id="dinov2",
    title="DINOv2",
    parts={"vision": (ALONE, GATED)},
    is_component=True,
    pipeline=Pipeline(("vision",), ("vision.norm",)),
    layouts=(
        layout(
            "timm",
            {"vision": Mount("", "timm")},
            note="qkv concatenated, LayerScale as `gamma`",
            container=ONE_FILE,
            dialect=timm.DINOV2,
            readers=("timm>=1.0,<2",),
        ),
        layout(
            "hf",
            {"vision": ""},
            note="the hub; transformers 4.31-5.23",
            readers=("transformers>=4.45,<6",),
        ),
        layout(
            "hf-5.23-mem",
            {"vision": Mount("", "hf-mem")},
            note="in memory in transformers 5.23: torch.save, FSDP",
            in_memory=True,
        ),
    ),
    config=ConfigKeys(
        model_types=("dinov2", "dinov2_with_registers"),
        constants={
            "architectures": lambda plan: [
                "Dinov2WithRegistersModel" if has_registers(plan) else "Dinov2Model"
            ],
            "model_type": lambda plan: "dinov2_with_registers" if has_registers(plan) else "dinov2",
            "image_size": image_size,
            "use_swiglu_ffn": lambda plan: plan.kinds["vision"].id == GATED.id,
        },
        roots={"vision": ("",)},
    ),
    sizes={name: {"vision": "dinov2+registers", **scoped("vision", size)} for name, size in SIZES.items()},
    settings=image_settings(*IMAGENET_PIXELS, "imagenet convention", do_center_crop=True),
    model="dovetail.models.towers.dinov2:Dinov2Model",
    inputs="dovetail.inputs.towers:dinov2_inputs",
    sources=(
        "arXiv:2304.07193",
        "timm@1.0.31 vision_transformer.py",
        "transformers@5.23.0 modeling_dinov2.py",
    ),
)
