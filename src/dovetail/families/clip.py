"""CLIP's vision tower, as LLaVA has it: a class token, a norm before the blocks and one after them.

Patches have no bias. The norm after the blocks is only for the pooled class token, which LLaVA does not
use: it is in every file all the same. The norm before them is misspelled in every file (`pre_layrnorm`).

Sources: transformers@5.23.0 `modeling_clip.py`; arXiv:2103.00020.
"""

from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.siglip import BLOCKS, HF_BLOCKS, IMAGE_SIZE

LEAVES = (
    """
class_embedding                              d_vision
patch_embed.weight                           d_vision channels patch patch
pos_embed.weight                             positions d_vision
pre_norm.(weight|bias)                       d_vision
"""
    + BLOCKS
)

HF = Naming(
    """
class_embedding                              embeddings.class_embedding
patch_embed.weight                           embeddings.patch_embedding.weight
pos_embed.weight                             embeddings.position_embedding.weight
pre_norm.(weight|bias)                       pre_layrnorm.(weight|bias)
"""
    + HF_BLOCKS
    + """
norm.(weight|bias)                           post_layernorm.(weight|bias)
-                                            embeddings.position_ids               buffer
"""
)


def _size(numbers: str) -> dict[str, int]:
    names = ("d_vision", "layers", "heads", "d_ff", "patch", "positions", "channels")
    return dict(zip(names, map(int, numbers.split()), strict=True))


# d_vision, layers, heads, d_ff, patch, positions (one for the class), channels: config.json of openai/clip-*.
SIZES = {
    "large-patch14-336": _size("1024 24 16 4096 14 577 3"),
    "large-patch14-224": _size("1024 24 16 4096 14 257 3"),
}

CLIP = Part(
    id="clip",
    purpose="tower",
    table=LEAVES,
    namings={"hf": HF},
    facts=Facts(
        spellings=parse_spellings("""
        d_vision    hidden_size | mm_hidden_size
        layers      num_hidden_layers
        heads       num_attention_heads
        d_ff        intermediate_size
        patch       patch_size
        channels    num_channels
        """),
        open_dims={"heads": "d_vision"},
        sizes=SIZES,
        settings=(
            Setting("norm_eps", ("layer_norm_eps",), 1e-5, "clip convention"),
            Setting("activation", ("hidden_act",), "quick_gelu", "clip convention"),
            Setting("antialias", (), False, "as transformers interpolates positions"),
            IMAGE_SIZE,
        ),
    ),
)
