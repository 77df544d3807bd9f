"""Prismatic VLMs and OpenVLA: one or two timm towers, one of four projectors, a Qwen or Llama decoder.

The native checkpoint is a nested dict, `model: {vision_backbone, projector, llm_backbone}`; dict
levels are written `/` here. A run that kept the tower frozen stores no vision backbone. With two
towers DINOv2 comes first. `avgpool_mlp` pools the patches before a two-layer MLP: the pooling has no
tensors, so its size is in the `arch_specifier` of the config only.

`notes-hf` and `notes-vllm` are the names that notes on a port to vLLM print; the notes print the second list
twice, once as "Prismatic" and once as "vLLM", character for character.

Sources: TRI-ML/prismatic-vlms `models/{load.py,vlms/prismatic.py}`, `util/nn_utils.py`; openvla
`vla-scripts/extern/convert_openvla_weights_to_hf.py`; datologyai/vllm@0975b71
`model_executor/models/prismatic_vlm.py` (open_clip's `trunk` around the tower); arXiv:2402.07865.
"""

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ConfigKeys, Container, Family, Mount, Pipeline, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting
from dovetail.declare.prompt import Prompt
from dovetail.families.decoder import HEAD, LLAMA, LLAMA_SIZES, QWEN2, QWEN3, QWEN3_SIZES
from dovetail.families.dinov2 import DINOV2
from dovetail.families.dinov2 import SIZES as DINOV2_SIZES
from dovetail.families.siglip import IMAGE_SIZE, SIGLIP
from dovetail.families.siglip import SIZES as SIGLIP_SIZES

_PICKLE = Container("torch", "checkpoints/latest-checkpoint.pt", "model/")

SIGLIP_EYE = Part(
    id="siglip",
    purpose="tower",
    table=SIGLIP.table,
    namings={**SIGLIP.namings, "openvla": SIGLIP.namings["timm"]},
    optional=SIGLIP.optional,
    # timm runs these weights with the exact gelu, whatever a config beside them says of transformers
    facts=SIGLIP.facts._replace(
        settings=(
            SIGLIP.facts.settings[0],
            Setting("activation", (), "gelu", "exact: timm@1.0.31 vit_so400m_patch14_siglip_*"),
            Setting("antialias", (), True, "as timm interpolates positions"),
            IMAGE_SIZE,
        )
    ),
)

_ARCH = Setting("arch_specifier", ("model.arch_specifier", "arch_specifier"), None)

LINEAR = Part(
    id="linear",
    purpose="connector",
    table="""
    fc1.weight                 d_out d_in
    fc1.bias                   d_out                              if bias
    """,
    namings={
        "native": Naming("fc1.(weight|bias)  projector.(weight|bias)"),
        "notes": Naming("fc1.(weight|bias)  projection.(weight|bias)"),
    },
    optional=("bias",),
    facts=Facts(settings=(_ARCH,), named_by=(*_ARCH.spellings, "linear")),
)
GELU_MLP = Part(
    id="gelu_mlp",
    purpose="connector",
    table="""
    fc1.(weight|bias)          d_out d_in | d_out
    fc2.(weight|bias)          d_out d_out | d_out
    """,
    namings={
        "native": Naming("(fc1|fc2).(weight|bias)  projector.(0|2).(weight|bias)"),
        "openvla": Naming("(fc1|fc2).(weight|bias)  (fc1|fc2).(weight|bias)"),
    },
    facts=Facts(settings=(_ARCH,), named_by=(*_ARCH.spellings, "gelu-mlp")),
)
FUSED_GELU_MLP = Part(
    id="fused_gelu_mlp",
    purpose="connector",
    table="""
    fc1.(weight|bias)          (4 d_in) d_in | (4 d_in)
    fc2.(weight|bias)          d_out (4 d_in) | d_out
    fc3.(weight|bias)          d_out d_out | d_out
    """,
    namings={
        "native": Naming("(fc1|fc2|fc3).(weight|bias)  projector.(0|2|4).(weight|bias)"),
        "openvla": Naming("(fc1|fc2|fc3).(weight|bias)  (fc1|fc2|fc3).(weight|bias)"),
    },
    facts=Facts(settings=(_ARCH,), named_by=(*_ARCH.spellings, "fused-gelu-mlp")),
)
AVGPOOL_MLP = Part(
    id="avgpool_mlp",
    purpose="connector",
    table=GELU_MLP.table,
    namings={
        "native": Naming("(fc1|fc2).(weight|bias)  mlp_projector.(0|2).(weight|bias)"),
        "openvla": Naming("(fc1|fc2).(weight|bias)  (fc1|fc2).(weight|bias)"),
    },
    facts=Facts(
        named_by=(*_ARCH.spellings, "avgpool"),
        settings=(
            _ARCH,
            Setting("num_image_tokens", ("num_image_tokens",), None),
            Setting(
                "pooling",
                ("pooling",),
                "2d",
                "Open-Qwen2VL pools the square grid; the SigLIP2 + Qwen3 model pools the token axis",
            ),
        ),
    ),
)

_TRUNK = "vision_backbone/featurizer.trunk."


_RESIZE = ("model.image_resize_strategy", "image_resize_strategy")

SETTINGS = (
    Setting("image_token", ("image_token_index", "image_token_id"), -200, "Open-Qwen2VL's placeholder"),
    Setting("image_resize_strategy", _RESIZE, "resize-naive", "as OpenVLA and the SigLIP2 + Qwen3 model"),
    Setting("vision_output", ("vision_output",), "penultimate", "prismatic: the second-to-last block"),
    Setting("vision_backbone_id", ("model.vision_backbone_id", "vision_backbone_id"), None),
)

_ARCH_OF = {"linear": "linear", "gelu_mlp": "no-align+gelu-mlp", "fused_gelu_mlp": "no-align+fused-gelu-mlp"}

_IN_OUT = "In: {prompt}\nOut:"
_LATER_VICUNA = "USER: {prompt} ASSISTANT:"
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    f"{_LATER_VICUNA}"
)
# TRI-ML/prismatic-vlms@4fcd061 models/backbones/llm/prompting/*.py: each language model in its own words.
PROMPT = Prompt(
    _IN_OUT,
    frames=(("*-pure", _IN_OUT), ("vicuna-v15-*", _VICUNA)),
    frames_by=("model.llm_backbone_id", "llm_backbone_id"),
    later=((_IN_OUT, _IN_OUT), (_VICUNA, _LATER_VICUNA)),
    begin="bos",
    clean="strip",
    has_image_tokens=False,
)


def arch_specifier(plan: Blueprint) -> str:
    """What a config calls the projector; an average pool keeps all patches."""
    kind = plan.kinds["projector"].id
    return _ARCH_OF.get(kind) or f"no-align+{plan.sizes['vision.positions']}-avgpool"


FAMILY = Family(
    pipeline=Pipeline(("llm",), ("llm.norm", "head")),
    id="prismatic",
    title="Prismatic VLM / OpenVLA",
    parts={
        "vision": (SIGLIP_EYE, DINOV2),
        "fused": (SIGLIP_EYE,),
        "projector": (GELU_MLP, FUSED_GELU_MLP, AVGPOOL_MLP, LINEAR),
        "llm": (QWEN3, LLAMA, QWEN2),
        "head": (HEAD,),
    },
    joints="""
    projector.d_in = vision.d_vision + fused.d_vision
    projector.d_out = llm.d_model
    """,
    tied_heads={"head": "llm"},
    optional=("fused",),
    layouts=(
        layout(
            "native",
            {
                "vision": (
                    Mount("vision_backbone/featurizer.", "timm"),
                    Mount("vision_backbone/dino_featurizer.", "timm", beside="fused"),
                ),
                "fused": Mount("vision_backbone/siglip_featurizer.", "timm"),
                "projector": Mount("projector/", "native"),
                "llm": "llm_backbone/llm.model.",
                "head": "llm_backbone/llm.lm_head.",
            },
            optional=("vision",),
            container=_PICKLE,
            note="nested torch file of the Prismatic trainer; no vision if the tower was frozen",
        ),
        layout(
            "openvla",
            {
                "vision": Mount("vision_backbone.featurizer.", "openvla"),
                "fused": Mount("vision_backbone.fused_featurizer.", "openvla"),
                "projector": Mount("projector.", "openvla"),
                "llm": "language_model.model.",
                "head": "language_model.lm_head.",
            },
            note="Hugging Face export of OpenVLA and Prismatic",
        ),
        layout(
            "notes-hf",
            {
                "vision": "vision_model.",
                "projector": Mount("projector.", "notes"),
                "llm": "language_model.",
                "head": "lm_head.",
            },
            note="printed in notes on a port to vLLM; nothing else writes it",
        ),
        layout(
            "notes-vllm",
            {
                "vision": "vision_backbone.",
                "projector": Mount("projector.", "notes"),
                "llm": "llm_backbone.",
                "head": "lm_head.",
            },
            note="printed in the same notes twice, as Prismatic's names and as vLLM's",
        ),
        layout(
            "datology",
            {
                "vision": Mount(_TRUNK, "timm"),
                "projector": Mount("projector/", "native"),
                "llm": "llm_backbone/llm.model.",
                "head": "llm_backbone/llm.lm_head.",
            },
            container=_PICKLE,
            note="native with open_clip's `trunk` around the tower",
        ),
    ),
    config=ConfigKeys(
        model_types=("prismatic", "openvla"),
        constants={"arch_specifier": arch_specifier},
        roots={
            "vision": ("vision", "vision_config", "model", ""),
            "fused": ("fused",),
            "projector": ("",),
            "llm": ("text", "text_config", ""),
            "head": ("text", "text_config", ""),
        },
    ),
    sizes={
        "siglip2-qwen3-1.7b": {
            "vision": "siglip+pool",
            **scoped("vision", SIGLIP_SIZES["so400m-patch14-378"]),
            "projector": "avgpool_mlp",
            **scoped("llm", QWEN3_SIZES["qwen3-1.7b"]),
            "head": "head",
        },
        "openvla-7b": {
            "vision": "dinov2+registers",
            **scoped("vision", DINOV2_SIZES["large-patch14-reg4"]),
            "fused": "siglip+pool",
            **scoped("fused", SIGLIP_SIZES["so400m-patch14-224"]),
            "projector": "fused_gelu_mlp",
            "llm": "llama",
            **scoped("llm", {**LLAMA_SIZES["llama2-7b"], "vocab": 32064}),
            "head": "head",
        },
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.prismatic:Prismatic",
    inputs="dovetail.inputs.prismatic:PrismaticInputs",
    prompt=PROMPT,
    sources=("arXiv:2402.07865", "arXiv:2406.09246", "TRI-ML/prismatic-vlms prismatic.py"),
)
