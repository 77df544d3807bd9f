"""SigLIP's and SigLIP2's text tower by itself, as `SiglipTextModel` saves it.

Source: transformers@5.23.0 `modeling_{siglip,siglip2}.py` (4.45-5.5 keep `text_model.` in the names, 5.23 does
not).
"""

from dovetail.declare.family import ConfigKeys, Family, Pipeline, layout, scoped
from dovetail.families.history import NEW_READERS, hub_readers
from dovetail.families.siglip import SIGLIP_TEXT


def _size(numbers: str) -> dict[str, int]:
    names = ("d_text", "layers", "heads", "d_ff", "vocab", "positions", "d_out")
    return dict(zip(names, map(int, numbers.split()), strict=True))


FAMILY = Family(
    id="siglip_text",
    title="SigLIP's text tower",
    parts={"text": (SIGLIP_TEXT,)},
    is_component=True,
    pipeline=Pipeline(("text",), ("text.norm", "text.proj")),
    layouts=(
        layout("hf", {"text": "text_model."}, note="transformers up to 5.5", readers=hub_readers("4.45")),
        layout(
            "hf-5.23",
            {"text": ""},
            note="the tower saved by transformers 5.23: no `text_model.`",
            readers=NEW_READERS,
        ),
    ),
    config=ConfigKeys(
        model_types=("siglip_text_model", "siglip2_text_model"),
        architecture="SiglipTextModel",
        roots={"text": ("", "text_config")},
    ),
    # config.json of google/siglip-so400m-patch14-384 and siglip-base-patch16-224
    sizes={
        "so400m": scoped("text", _size("1152 27 16 4304 32000 64 1152")),
        "base": scoped("text", _size("768 12 12 3072 32000 64 768")),
    },
    sources=("arXiv:2303.15343", "arXiv:2502.14786", "transformers@5.23.0 modeling_siglip.py"),
)
