"""The inputs of a tiny model of every family, made from sizes and settings alone."""

from typing import Any

import numpy as np

from dovetail.families import built_in
from dovetail.families.qwen3_vl import vision_layers
from dovetail.inputs import build
from dovetail.inputs.values import Values, values_from
from files import MODELS, plan_of
from inputs.golden_images import noise

GIVEN: dict[str, Any] = {
    "projector.num_image_tokens": 9,
    "resampler.norm_first": True,
    "resampler.num_queries": 9,
    "resampler.resampler_type": "spatial_pool",
    "pipeline": "cora",
    "fov_deg": 180.0,
    "crop_strategy": "sliding_window",
    "grid_pinpoints": [[35, 70], [70, 35]],
    "min_pixels": 3136,
    "max_pixels": 6000,
}
EVEN = {"text.head_dim": 8, "llm.head_dim": 8, "vlm.head_dim": 8, "expert.d_model": 54}
LANGUAGE = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_onevision",
    "llava",
    "paligemma",
    "prismatic",
    "panovlm",
)
TEXT = ("llama", "mistral", "smollm3", "qwen2", "qwen3", "gemma")
POLICIES = ("pi0", "pi05")
CASES = [
    (one.id, i) for one in built_in() if one.inputs and one.id in MODELS for i in range(len(MODELS[one.id]))
]


def values_for(id: str, number: int = 0, **given: Any) -> Values:
    """The values of one of the tiny models; `given` settings have `__` for the dot of their names."""
    sizes = MODELS[id][number]
    roles = {name.split(".")[0] for name in sizes}
    even = {name: size for name, size in EVEN.items() if name.split(".")[0] in roles}
    more = {name.replace("__", "."): value for name, value in given.items()}
    plan = plan_of(id, {**sizes, **even})
    if id == "qwen3_vl":
        more = {"deepstack.vision_layers": vision_layers(plan), **more}
    return values_from(plan, {**GIVEN, **more})


def inputs_for(id: str, number: int = 0, **given: Any) -> Any:
    """What makes the inputs of one of the tiny models."""
    return build(values_for(id, number, **given))


def arrays_of(inputs: Any, *, pad: str = "left") -> dict[str, np.ndarray]:
    """The inputs of one batch, the same for the same family."""
    pictures = [noise(23, 31), noise(40, 12, seed=1)]
    if inputs.family in POLICIES:
        seen = [[True, True], [True, False]]
        state = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
        made: dict[str, np.ndarray] = inputs([pictures, pictures], seen, [[5, 9], [8, 0]], seen, state)
        return made
    if inputs.family in TEXT:
        return inputs([[5, 9, 20], [8]], pad=pad)  # type: ignore[no-any-return]
    if inputs.family in LANGUAGE:
        rows = [[5, inputs.image_token, 7], [20, inputs.image_token, 8, 3]]
        return inputs(rows, [[picture] for picture in pictures], pad=pad)  # type: ignore[no-any-return]
    return inputs(pictures)  # type: ignore[no-any-return]
