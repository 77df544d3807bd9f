"""A tiny model of every family that runs, and what it puts out."""

from typing import Any

import numpy as np
import torch

from dovetail.families import built_in
from dovetail.models.language import LanguageModel
from dovetail.models.policies.policy import Policy
from files import scoped
from inputs.golden_images import noise

DECODER = {
    "layers": 3,
    "d_model": 26,
    "q_heads": 6,
    "kv_heads": 3,
    "head_dim": 14,
    "d_ff": 29,
    "vocab": 211,
}
VISION = {"layers": 2, "d_vision": 24, "heads": 3, "d_ff": 31, "patch": 5, "positions": 16, "channels": 3}
TEXT = scoped("text", DECODER)
TOWER = scoped("vision", VISION)
LLM = scoped("llm", DECODER)
PI0 = {**TOWER, **scoped("vlm", DECODER), "expert.d_model": 22, "expert.d_ff": 37, "heads.d_action": 13}
PATCHES = {"layers": 2, "d_vision": 24, "heads": 2, "d_ff": 48, "patch": 4, "frames": 2, "channels": 3}
LEVELS = {"projector.levels": 1}
DEEP = {**TEXT, **scoped("vision", {**PATCHES, "layers": 4, "positions": 16})}

# the families that run
RUNNABLE = [family.id for family in built_in() if family.model]
# family -> a few sizes, each with other kinds of parts
SIZES: dict[str, list[dict[str, int | str]]] = {
    "qwen2_vl": [
        {**TEXT, **scoped("vision", PATCHES), "merger.merge_area": 4},
        {**TEXT, **scoped("vision", PATCHES), "merger.merge_area": 4, "head": "head"},
    ],
    "qwen2_5_vl": [
        {**TEXT, **scoped("vision", PATCHES), "merger.merge_area": 4},
        {**TEXT, **scoped("vision", PATCHES), "merger.merge_area": 4, "head": "head"},
    ],
    "qwen3_vl": [
        {**DEEP, "merger.merge_area": 4, "deepstack.levels": 2},
        {**DEEP, "merger.merge_area": 9, "deepstack.levels": 3, "head": "head"},
    ],
    "paligemma": [{**TEXT, **TOWER}],
    "llava_onevision": [{**TEXT, **TOWER, **LEVELS}, {**TEXT, **TOWER, **LEVELS, "head": "head"}],
    "prismatic": [
        {"vision": "siglip+pool", **TOWER, **LLM, "head": "head"},
        {"projector": "avgpool_mlp", "llm": "qwen2", **TOWER, **LLM},
        {"projector": "linear+bias", "llm": "llama", **TOWER, **LLM, "head": "head"},
    ],
    "panovlm": [
        {**TOWER, **TEXT, "resampler": "mlp_2", "resampler.hidden_dim": 20, "resampler.out_dim": 18},
    ],
    "llava": [{**TOWER, "vision.positions": 17, **TEXT, **LEVELS, "head": "head"}],
    "pi0": [{**PI0, "heads.d_state": 17}],
    "pi05": [PI0],
    "llama": [{**TEXT, "head": "head"}, TEXT],
    "mistral": [{**TEXT, "head": "head"}, {"text": "ministral", **TEXT}],
    "smollm3": [TEXT],
    "qwen2": [TEXT],
    "qwen3": [TEXT],
    "gemma": [TEXT],
    "siglip": [
        {"vision": "siglip+pool", **scoped("vision", VISION)},
        {"vision": "siglip", **scoped("vision", VISION)},
    ],
    "dinov2": [
        {"vision": "dinov2+registers", **scoped("vision", {**VISION, "registers": 2})},
        {"vision": "dinov2_gated", **scoped("vision", {**VISION, "positions": 17})},
    ],
}
STATE = torch.linspace(-1, 1, 10).view(2, 5)
# What a family needs to know that stands in no config of that size.
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"max_pixels": 6000},
    "qwen2_5_vl": {"max_pixels": 6000, "vision.window_size": 16, "vision.full_attention_layers": [1]},
    "qwen3_vl": {"min_pixels": 800, "max_pixels": 6000},
    "dinov2": {"vision.heads": 3},
    "panovlm": {"vision.heads": 3, "text.head_dim": 14, "pipeline": "panovlm"},
}
# The same for images as large as the example of `parity/example.py`.
GIVEN = {**SETTINGS, "llava_onevision": {"grid_pinpoints": [[20, 40], [40, 20]]}}


def batch(model: Any) -> dict[str, Any]:
    """The same two rows for every model of a kind, with all that it reads in the first."""
    pictures = [noise(23, 31), noise(40, 12, seed=1)]
    if isinstance(model, Policy):
        return model.prepare(
            [pictures], [[True, True]], [[5, 9], [8, 0]], [[True, True], [True, False]], STATE
        )
    if not isinstance(model, LanguageModel):
        return dict(model.prepare(pictures))
    token = getattr(getattr(model, "config", None), "image_token", None)
    if token is None:
        return model.prepare([[5, 9, 200], [8]])
    return model.prepare([[5, token, 7, token], [200, 8]], [pictures, []])


@torch.no_grad()
def output(model: Any) -> torch.Tensor:
    """What a model makes of the same inputs every time."""
    inputs = batch(model)
    if isinstance(model, Policy):
        noise_of = torch.randn((2, *model.action_shape), generator=torch.Generator().manual_seed(0))
        return model.sample_actions(inputs, noise=noise_of, num_steps=2)
    return model(**inputs)


def is_finite_and_varied(values: torch.Tensor) -> bool:
    """Whether a model put out numbers that its input changes."""
    found = values.numpy()
    return bool(np.isfinite(found).all()) and float(found.std()) > 0
