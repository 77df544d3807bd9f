"""DINOv2 vision towers as timm stores them: the second eye of fused Prismatic models and OpenVLA.

A class token, optional registers, LayerScale after each branch. OpenVLA's export calls the LayerScale
`scale_factor`, because Hugging Face renames anything called `gamma`.

Sources: timm@1.0.31 `vision_transformer.py` (`vit_large_patch14_reg4_dinov2`); openvla@HEAD
`vla-scripts/extern/convert_openvla_weights_to_hf.py`; arXiv:2304.07193.
"""

from dovetail.declare.family import ConfigKeys, Family, Mount, Pipeline, layout, scoped
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

_SHARED = (
    TIMM_BLOCKS
    + """
cls_token                                    cls_token
reg_token                                    reg_token
"""
)
TIMM = Naming(_SHARED + "blocks.{layer}.(scale1|scale2)  blocks.{layer}.(ls1|ls2).gamma")
OPENVLA = Naming(_SHARED + "blocks.{layer}.(scale1|scale2)  blocks.{layer}.(ls1|ls2).scale_factor")

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

FAMILY = Family(
    id="dinov2",
    title="DINOv2",
    parts={"vision": (DINOV2,)},
    is_component=True,
    pipeline=Pipeline(("vision",), ("vision.norm",)),
    layouts=(
        layout(
            "timm",
            {"vision": Mount("", "timm")},
            note="qkv concatenated, LayerScale as `gamma`",
            dialect=timm.DINOV2,
            readers=("timm>=1.0,<2",),
        ),
    ),
    config=ConfigKeys(roots={"vision": ("",)}),
    sizes={name: {"vision": "dinov2+registers", **scoped("vision", size)} for name, size in SIZES.items()},
    settings=image_settings(*IMAGENET_PIXELS, "imagenet convention", do_center_crop=True),
    model="dovetail.models.towers.dinov2:Dinov2Model",
    inputs="dovetail.inputs.towers:dinov2_inputs",
    sources=("arXiv:2304.07193", "timm@1.0.31 vision_transformer.py"),
)
