"""PaliGemma: a SigLIP tower without pooling, one linear projector, a Gemma decoder with a tied head.

Sources: transformers 4.45.2-5.23.0 `modeling_paligemma.py`, saved and read back in six versions;
arXiv:2407.07726.
"""

from dovetail.declare.family import ConfigKeys, Family, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.declare.prompt import Prompt
from dovetail.families.decoder import GEMMA, GEMMA_SIZES, HEAD
from dovetail.families.history import llava_layouts
from dovetail.families.siglip import IMAGE_SETTINGS, SIGLIP
from dovetail.families.siglip import SIZES as SIGLIP_SIZES

LINEAR = Part(
    id="linear",
    purpose="connector",
    table="(weight|bias)  d_out d_in | d_out",
    namings={"hf": Naming("(weight|bias)  (weight|bias)")},
    facts=Facts(spellings=parse_spellings("d_out  projection_dim")),
)

FAMILY = Family(
    id="paligemma",
    title="PaliGemma",
    parts={"vision": (SIGLIP,), "projector": (LINEAR,), "text": (GEMMA,), "head": (HEAD,)},
    joints="""
    projector.d_in = vision.d_vision
    projector.d_out = text.d_model
    """,
    tied_heads={"head": "text"},
    layouts=llava_layouts(projector="multi_modal_projector.linear.", since="4.41", hub="the hub"),
    config=ConfigKeys(
        model_types=("paligemma",),
        architecture="PaliGemmaForConditionalGeneration",
        constants={
            "text_config.model_type": "gemma",
            "vision_config.model_type": "siglip_vision_model",
            "vision_config.vision_use_head": False,
            "image_token_index": 257152,
        },
        roots={
            "text": ("text_config",),
            "head": ("text_config",),
            "vision": ("vision_config",),
            "projector": ("",),
        },
    ),
    sizes={
        "3b-224": {
            **scoped("vision", SIGLIP_SIZES["so400m-patch14-224"]),
            **scoped("text", {**GEMMA_SIZES["gemma_2b"], "vocab": 257216}),
        },
    },
    settings=(
        Setting("image_token", ("image_token_index", "image_token_id"), 257152, "paligemma convention"),
        *IMAGE_SETTINGS,
    ),
    model="dovetail.models.vlm.paligemma:PaliGemma",
    inputs="dovetail.inputs.paligemma:PaliGemmaInputs",
    prompt=Prompt("{prompt}\n", begin="bos"),
    sources=("arXiv:2407.07726", "transformers@5.23.0 modeling_paligemma.py"),
)
