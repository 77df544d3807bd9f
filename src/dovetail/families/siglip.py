"""SigLIP and SigLIP2: the vision tower, the text tower, and the pair.

The tower keeps q, k and v apart, as Hugging Face stores them; timm joins them. The pooling head (a
learned probe that attends to the patches) is optional: PaliGemma and pi0 leave it out, Prismatic stores
it and does not use it. SigLIP2's NaFlex models store the patch embedding as a matrix over flattened
patches; the names are the same, so the shape tells.

Sources: transformers@5.23.0 `modeling_{siglip,siglip2}.py` (4.45-5.5 keep `vision_model.` in the name
of a tower saved alone, 5.23 does not); timm@1.0.31 `vision_transformer.py`, `layers/attention_pool.py`;
arXiv:2303.15343, arXiv:2502.14786.
"""

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import ONE_FILE, ConfigKeys, Family, Mount, Pipeline, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families import timm
from dovetail.families.history import NEW_READERS

BLOCKS = """
blocks.{layer}.norm1.(weight|bias)           d_vision
blocks.{layer}.attn.(q|k|v|o).(weight|bias)  d_vision d_vision | d_vision
blocks.{layer}.norm2.(weight|bias)           d_vision
blocks.{layer}.mlp.fc1.(weight|bias)         d_ff d_vision | d_ff
blocks.{layer}.mlp.fc2.(weight|bias)         d_vision d_ff | d_vision
norm.(weight|bias)                           d_vision
"""

POOL = """
pool.latent                                  1 1 d_vision                        if pool
pool.(q|k|v|o).(weight|bias)                 d_vision d_vision | d_vision        if pool
pool.norm.(weight|bias)                      d_vision                            if pool
pool.mlp.fc1.(weight|bias)                   d_ff d_vision | d_ff                if pool
pool.mlp.fc2.(weight|bias)                   d_vision d_ff | d_vision            if pool
"""

LEAVES = (
    """
patch_embed.(weight|bias)                    d_vision channels patch patch | d_vision
pos_embed.weight                             positions d_vision
"""
    + BLOCKS
    + POOL
)

NAFLEX_LEAVES = (
    """
patch_embed.(weight|bias)                    d_vision (channels patch patch) | d_vision
pos_embed.weight                             positions d_vision
"""
    + BLOCKS
    + POOL
)

HF_BLOCKS = """
blocks.{layer}.norm1.(weight|bias)           encoder.layers.{layer}.layer_norm1.(weight|bias)
blocks.{layer}.attn.(q|k|v|o).(weight|bias)  encoder.layers.{layer}.self_attn.(q_proj|k_proj|v_proj|out_proj).(weight|bias)
blocks.{layer}.norm2.(weight|bias)           encoder.layers.{layer}.layer_norm2.(weight|bias)
blocks.{layer}.mlp.(fc1|fc2).(weight|bias)   encoder.layers.{layer}.mlp.(fc1|fc2).(weight|bias)
"""

HF = Naming(
    """
patch_embed.(weight|bias)                    embeddings.patch_embedding.(weight|bias)
pos_embed.weight                             embeddings.position_embedding.weight
"""
    + HF_BLOCKS
    + """
norm.(weight|bias)                           post_layernorm.(weight|bias)
pool.latent                                  head.probe
pool.[q k v].weight                          head.attention.in_proj_weight         concat
pool.[q k v].bias                            head.attention.in_proj_bias           concat
pool.o.(weight|bias)                         head.attention.out_proj.(weight|bias)
pool.norm.(weight|bias)                      head.layernorm.(weight|bias)
pool.mlp.(fc1|fc2).(weight|bias)             head.mlp.(fc1|fc2).(weight|bias)
-                                            embeddings.position_ids               buffer
"""
)

TIMM_BLOCKS = """
patch_embed.(weight|bias)                    patch_embed.proj.(weight|bias)
pos_embed.weight                             pos_embed                             as 1 positions d_vision
blocks.{layer}.norm1.(weight|bias)           blocks.{layer}.norm1.(weight|bias)
blocks.{layer}.attn.[q k v].weight           blocks.{layer}.attn.qkv.weight        concat
blocks.{layer}.attn.[q k v].bias             blocks.{layer}.attn.qkv.bias          concat
blocks.{layer}.attn.o.(weight|bias)          blocks.{layer}.attn.proj.(weight|bias)
blocks.{layer}.norm2.(weight|bias)           blocks.{layer}.norm2.(weight|bias)
blocks.{layer}.mlp.(fc1|fc2).(weight|bias)   blocks.{layer}.mlp.(fc1|fc2).(weight|bias)
norm.(weight|bias)                           norm.(weight|bias)
"""

TIMM = Naming(
    TIMM_BLOCKS
    + """
pool.latent                                  attn_pool.latent
pool.q.(weight|bias)                         attn_pool.q.(weight|bias)
pool.[k v].weight                            attn_pool.kv.weight                   concat
pool.[k v].bias                              attn_pool.kv.bias                     concat
pool.o.(weight|bias)                         attn_pool.proj.(weight|bias)
pool.norm.(weight|bias)                      attn_pool.norm.(weight|bias)
pool.mlp.(fc1|fc2).(weight|bias)             attn_pool.mlp.(fc1|fc2).(weight|bias)
"""
)

SPELLINGS = parse_spellings("""
d_vision    hidden_size | vision_embed_dim
layers      num_hidden_layers | vision_num_hidden_layers
heads       num_attention_heads | model_args.num_heads
d_ff        intermediate_size
patch       patch_size
channels    num_channels
positions   (image_size // patch_size)^2
""")


def _size(numbers: str) -> dict[str, int]:
    names = ("d_vision", "layers", "heads", "d_ff", "patch", "positions", "channels")
    return dict(zip(names, map(int, numbers.split()), strict=True))


# d_vision, layers, heads, d_ff, patch, positions, channels (config.json of google/siglip*-*).
SIZES = {
    "so400m-patch14-224": _size("1152 27 16 4304 14 256 3"),
    "so400m-patch14-378": _size("1152 27 16 4304 14 729 3"),
    "so400m-patch16-256": _size("1152 27 16 4304 16 256 3"),
    "base-patch16-224": _size("768 12 12 3072 16 196 3"),
    "large-patch16-256": _size("1024 24 16 4096 16 256 3"),
}

IMAGE_SIZE = Setting("image_size", ("image_size",), 0, "0: as many pixels as the patches cover")
SETTINGS = (
    Setting("norm_eps", ("layer_norm_eps",), 1e-6, "siglip convention"),
    Setting(
        "activation",
        ("hidden_act", "model_args.act_layer", "architecture"),
        "gelu_pytorch_tanh",
        "as transformers runs it; timm runs the same weights with the exact gelu",
        means=timm.activation,
    ),
    Setting("antialias", (), False, "as transformers interpolates positions; timm antialiases"),
    IMAGE_SIZE,
)


# Mean and standard deviation of each colour, as OpenAI trained CLIP and as SigLIP was trained.
CLIP_PIXELS = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET_PIXELS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF_PIXELS = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


BICUBIC = 3  # Pillow's number of the filter, which image processors write


def image_settings(
    mean: list[float], std: list[float], why: str, *, do_center_crop: bool = False
) -> tuple[Setting, ...]:
    """What is done to images, as the file of an image processor says it."""
    quiet = {
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_center_crop": do_center_crop,
        "do_pad": False,
        "size": {},
        "crop_size": {},
    }
    return (
        Setting("image_mean", ("image_mean", timm.MEAN), mean, why),
        Setting("image_std", ("image_std", timm.STD), std, why),
        *(Setting(name, (name,), value, why, is_quiet=True) for name, value in quiet.items()),
    )


IMAGE_SETTINGS = image_settings(*HALF_PIXELS, "siglip convention")

_FACTS = Facts(
    spellings=SPELLINGS,
    open_dims={"heads": "d_vision"},
    settings=SETTINGS,
    sizes=SIZES,
    conventions=(("heads", 16, "siglip so400m convention"),),
)

SIGLIP = Part(
    id="siglip",
    purpose="tower",
    table=LEAVES,
    namings={"hf": HF, "timm": TIMM},
    optional=("pool",),
    facts=_FACTS,
)
SIGLIP_NAFLEX = Part(
    id="siglip_naflex",
    purpose="tower",
    table=NAFLEX_LEAVES,
    namings={"hf": HF},
    optional=("pool",),
    facts=_FACTS._replace(
        spellings={**SPELLINGS, "positions": ("num_patches",)},
        settings=(*SETTINGS[:2], Setting("max_num_patches", ("max_num_patches",), 256, "siglip2 convention")),
    ),
)

# What the text towers of SigLIP and CLIP share: all names but SigLIP's projection, and the keys of their sizes.
TEXT_LEAVES = """
embed.weight                                 vocab d_text
pos_embed.weight                             positions d_text
""" + BLOCKS.replace("d_vision", "d_text")
HF_TEXT = f"""
embed.weight                                 embeddings.token_embedding.weight
pos_embed.weight                             embeddings.position_embedding.weight
{HF_BLOCKS}
norm.(weight|bias)                           final_layer_norm.(weight|bias)
-                                            embeddings.position_ids               buffer
"""
TEXT_SPELLINGS = """
d_text      hidden_size
layers      num_hidden_layers
heads       num_attention_heads
d_ff        intermediate_size
vocab       vocab_size
positions   max_position_embeddings
"""

SIGLIP_TEXT = Part(
    id="siglip_text",
    purpose="tower",
    table=TEXT_LEAVES
    + """
    proj.(weight|bias)                           d_out d_text | d_out
    """,
    namings={"hf": Naming(HF_TEXT + "proj.(weight|bias)  head.(weight|bias)")},
    facts=Facts(
        spellings=parse_spellings(TEXT_SPELLINGS + "d_out  projection_size"),
        open_dims={"heads": "d_text"},
        settings=SETTINGS[:2],
        conventions=(("heads", 16, "siglip so400m convention"),),
    ),
)

CONTRAST = Part(
    id="contrast",
    table="(scale|bias)  1",
    namings={"hf": Naming("(scale|bias)  (logit_scale|logit_bias)")},
)


def has_pool(plan: Blueprint) -> bool:
    """Whether the tower keeps its pooling head (transformers' `vision_use_head`)."""
    return "pool" in plan.features["vision"]


def is_naflex(plan: Blueprint) -> bool:
    """Whether images keep their shape, as in SigLIP2's models of their own class."""
    return plan.kinds["vision"].id == SIGLIP_NAFLEX.id


def model_type(plan: Blueprint) -> str:
    """What transformers calls the model."""
    return ("siglip2" if is_naflex(plan) else "siglip") + ("" if is_pair(plan) else "_vision_model")


def architecture(plan: Blueprint) -> str:
    """The class of transformers."""
    return ("Siglip2" if is_naflex(plan) else "Siglip") + ("Model" if is_pair(plan) else "VisionModel")


def is_pair(plan: Blueprint) -> bool:
    """Whether there is a text tower beside the vision tower."""
    return "text" in plan.kinds


FAMILY = Family(
    id="siglip",
    title="SigLIP / SigLIP2",
    parts={"vision": (SIGLIP, SIGLIP_NAFLEX), "text": (SIGLIP_TEXT,), "contrast": (CONTRAST,)},
    optional=("text", "contrast"),
    is_component=True,
    pipeline=Pipeline(("vision",), ("vision.norm", "vision.pool", "contrast")),
    layouts=(
        layout(
            "hf",
            {"vision": "vision_model.", "text": "text_model.", "contrast": ""},
            note="the hub; transformers up to 5.5",
            readers=("transformers>=4.45,<6",),
        ),
        layout(
            "hf-5.23",
            {"vision": ""},
            note="a tower saved alone by transformers 5.23: no `vision_model.`",
            readers=NEW_READERS,
        ),
        layout(
            "timm",
            {"vision": Mount("", "timm")},
            note="qkv concatenated; with or without attn_pool",
            container=ONE_FILE,
            dialect=timm.SIGLIP,
            readers=("timm>=1.0,<2",),
        ),
    ),
    config=ConfigKeys(
        model_types=("siglip_vision_model", "siglip", "siglip2", "siglip2_vision_model"),
        architecture="SiglipVisionModel",
        write_roots={"vision": lambda plan: "vision_config" if is_pair(plan) else ""},
        constants={
            "architectures": lambda plan: [architecture(plan)],
            "model_type": model_type,
            "vision_use_head": lambda plan: None if is_pair(plan) else has_pool(plan),
            "vision_config.vision_use_head": lambda plan: has_pool(plan) if is_pair(plan) else None,
        },
        roots={"vision": ("vision_config", ""), "text": ("text_config",)},
    ),
    sizes={name: {"vision": "siglip+pool", **scoped("vision", size)} for name, size in SIZES.items()},
    settings=IMAGE_SETTINGS,
    model="dovetail.models.towers.siglip:build_siglip",
    inputs="dovetail.inputs.towers:siglip_inputs",
    sources=(
        "arXiv:2303.15343",
        "arXiv:2502.14786",
        "transformers@5.23.0 modeling_siglip.py",
        "timm@1.0.31 vision_transformer.py",
    ),
)
