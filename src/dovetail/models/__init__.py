"""The models, one readable file each; torch begins here.

Parameters are called as their family declares them, below the role of their part:
`text.blocks.3.attn.q.weight`. Nothing here reads files: `dovetail.loading.load` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dovetail.errors import UsageError
from dovetail.models.values import Values

if TYPE_CHECKING:
    from torch import nn

# family -> module and class; imported when a model is built
MODELS = {
    "qwen2_vl": ("vlm.qwen2_vl", "Qwen2VL"),
    "paligemma": ("vlm.paligemma", "PaliGemma"),
    "llava_onevision": ("vlm.llava_onevision", "LlavaOnevision"),
    "llama": ("text", "TextModel"),
    "qwen2": ("text", "TextModel"),
    "qwen3": ("text", "TextModel"),
    "gemma": ("text", "TextModel"),
    "prismatic": ("vlm.prismatic", "Prismatic"),
    "panovlm": ("vlm.panovlm", "build_panovlm"),
    "llava": ("vlm.llava", "Llava"),
    "pi0": ("policies.pi0", "Pi0"),
    "pi05": ("policies.pi05", "Pi05"),
    "siglip": ("towers.siglip", "build_siglip"),
    "dinov2": ("towers.dinov2", "Dinov2Model"),
}

# openpi@15a9616 gemma_pytorch.py:to_bfloat16_for_selected_params
_PI0 = (
    "vision.patch_embed.*",
    "vision.pos_embed.*",
    "vlm.blocks.*.norm?.*",
    "vlm.norm.*",
    "expert.blocks.*.norm?.*",
    "expert.norm.*",
    "heads.*",
    "normalizer.*",
)
# family -> parameters that stay in float32 when a narrower type is asked for
FLOAT32: dict[str, tuple[str, ...]] = {
    "pi0": _PI0,
    "pi05": _PI0,
    # mamba_ssm modules/mamba_simple.py keeps both out of mixed precision
    "panovlm": ("resampler.*.A_log", "resampler.*.D"),
}


def build(values: Values) -> "nn.Module":
    """A model without weights: every parameter is on `meta`.

    Raises:
        UsageError: there is no model of the family here, or a value that it needs is not known.
    """
    import torch

    if values.family.id not in MODELS:
        raise UsageError(f"dovetail has no model of {values.family.id}", hint="it has: " + ", ".join(MODELS))
    module, name = MODELS[values.family.id]
    with torch.device("meta"):
        model: nn.Module = getattr(import_module(f"dovetail.models.{module}"), name)(values)
    return model
