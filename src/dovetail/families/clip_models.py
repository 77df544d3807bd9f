"""CLIP by itself: the vision tower, the pair, either with its projection; and the text tower alone.

The text tower has a causal mask and reads a text off the token that ends it. Files of the pair hold one
number, the scale of all scores, that has no axis.

Sources: transformers@5.23.0 `modeling_clip.py` (4.45-5.5 keep `vision_model.` and `text_model.` in the names
of a tower saved alone, 5.23 does not, but for towers with their projection); arXiv:2103.00020.
"""

import math

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ConfigKeys, Family, Pipeline, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.clip import CLIP, SIZES
from dovetail.families.history import NEW_READERS, hub_readers
from dovetail.families.siglip import CLIP_PIXELS, HF_TEXT, TEXT_LEAVES, TEXT_SPELLINGS, image_settings

CLIP_TEXT = Part(
    id="clip_text",
    purpose="tower",
    table=TEXT_LEAVES,
    namings={"hf": Naming(HF_TEXT)},
    facts=Facts(
        spellings=parse_spellings(TEXT_SPELLINGS),
        open_dims={"heads": "d_text"},
        settings=(
            Setting("norm_eps", ("layer_norm_eps",), 1e-5, "clip convention"),
            Setting("activation", ("hidden_act",), "quick_gelu", "clip convention"),
        ),
        conventions=(("heads", 12, "clip large convention"),),
    ),
)
PROJECTION = Part(
    id="clip_projection",
    purpose="connector",
    table="weight  d_out d_in",
    namings={"hf": Naming("weight  weight")},
    facts=Facts(spellings=parse_spellings("d_out  projection_dim")),
)
SCALE = Part(id="clip_scale", table="scale  ()", namings={"hf": Naming("scale  logit_scale")})


def is_pair(plan: Blueprint) -> bool:
    """Whether there is a text tower beside the vision tower."""
    return "text" in plan.kinds


def architecture(plan: Blueprint) -> str:
    """The class of transformers."""
    if is_pair(plan):
        return "CLIPModel"
    return "CLIPVisionModelWithProjection" if "visual_projection" in plan.kinds else "CLIPVisionModel"


def _image_size(plan: Blueprint) -> int:
    return math.isqrt(plan.sizes["vision.positions"] - 1) * plan.sizes["vision.patch"]


FAMILY = Family(
    id="clip",
    title="CLIP",
    parts={
        "vision": (CLIP,),
        "text": (CLIP_TEXT,),
        "visual_projection": (PROJECTION,),
        "text_projection": (PROJECTION,),
        "scale": (SCALE,),
    },
    joints="""
    visual_projection.d_in = vision.d_vision
    text_projection.d_in = text.d_text
    text_projection.d_out = visual_projection.d_out
    """,
    optional=("text", "visual_projection", "text_projection", "scale"),
    is_component=True,
    pipeline=Pipeline(("vision",), ("vision.norm", "visual_projection")),
    layouts=(
        layout(
            "hf",
            {
                "vision": "vision_model.",
                "text": "text_model.",
                "visual_projection": "visual_projection.",
                "text_projection": "text_projection.",
                "scale": "",
            },
            note="the hub; the pair and towers with a projection in all versions, others up to 5.5",
            readers=hub_readers("4.45"),
        ),
        layout(
            "hf-5.23",
            {"vision": ""},
            note="a tower saved alone by transformers 5.23: no `vision_model.`",
            readers=NEW_READERS,
        ),
    ),
    config=ConfigKeys(
        model_types=("clip_vision_model", "clip"),
        write_roots={"vision": lambda plan: "vision_config" if is_pair(plan) else ""},
        constants={
            "architectures": lambda plan: [architecture(plan)],
            "model_type": lambda plan: "clip" if is_pair(plan) else "clip_vision_model",
            "image_size": lambda plan: None if is_pair(plan) else _image_size(plan),
            "vision_config.image_size": lambda plan: _image_size(plan) if is_pair(plan) else None,
        },
        roots={
            "vision": ("vision_config", ""),
            "text": ("text_config",),
            "visual_projection": ("",),
            "text_projection": ("",),
        },
    ),
    sizes={name: scoped("vision", size) for name, size in SIZES.items()},
    settings=image_settings(*CLIP_PIXELS, "clip convention", do_center_crop=True),
    sources=("arXiv:2103.00020", "transformers@5.23.0 modeling_clip.py"),
)

# vocab 49408, 77 positions: config.json of openai/clip-vit-large-patch14, whose text tower is narrower
_LARGE = {"d_text": 768, "layers": 12, "heads": 12, "d_ff": 3072, "vocab": 49408, "positions": 77}

TEXT_FAMILY = Family(
    id="clip_text",
    title="CLIP's text tower",
    parts={"text": (CLIP_TEXT,), "text_projection": (PROJECTION,)},
    joints="text_projection.d_in = text.d_text",
    optional=("text_projection",),
    is_component=True,
    pipeline=Pipeline(("text",), ("text.norm", "text_projection")),
    layouts=(
        layout(
            "hf",
            {"text": "text_model.", "text_projection": "text_projection."},
            note="transformers up to 5.5; with a projection in all versions",
            readers=hub_readers("4.45"),
        ),
        layout(
            "hf-5.23",
            {"text": ""},
            note="the tower saved by transformers 5.23: no `text_model.`",
            readers=NEW_READERS,
        ),
    ),
    config=ConfigKeys(
        model_types=("clip_text_model",),
        constants={
            "architectures": lambda plan: [
                "CLIPTextModelWithProjection" if "text_projection" in plan.kinds else "CLIPTextModel"
            ]
        },
        roots={"text": ("", "text_config"), "text_projection": ("",)},
    ),
    sizes={"large-patch14": scoped("text", _LARGE)},
    sources=("arXiv:2103.00020", "transformers@5.23.0 modeling_clip.py"),
)
