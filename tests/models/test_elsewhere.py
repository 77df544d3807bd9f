"""Models run on any device and in bfloat16: nothing is made on another device or in another type.

`meta` stands for a device that is not the one where tensors are made by default; what mixes the two fails.
"""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import dovetail
from dovetail.declare.reference import referenced
from dovetail.edit.make import make
from dovetail.families import family
from dovetail.inputs.values import values_from
from dovetail.loading.load import load
from files import MODELS, plan_of

EVEN = {"text.head_dim": 8, "llm.head_dim": 8, "vlm.head_dim": 8, "expert.d_model": 54}
GIVEN: dict[str, Any] = {
    "projector.num_image_tokens": 9,
    "resampler.norm_first": True,
    "resampler.num_queries": 9,
    "resampler.resampler_type": "spatial_pool",
}
# What the configs of these sizes do not say.
OPEN = {
    **GIVEN,
    "pipeline": "cora",
    "vision.heads": 6,
    "text.head_dim": 8,
    "resampler.heads": 6,
    "resampler.head_dim": 19,
}
CASES = [
    (id, i)
    for id in ("siglip", "dinov2", "llava", "prismatic", "panovlm", "pi0", "pi05")
    for i in range(len(MODELS[id]))
]
# These read the grids of images on the way, which `meta` does not have.
QWEN_VL = [(id, i) for id in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl") for i in range(len(MODELS[id]))]


def sizes_of(id: str, number: int) -> dict[str, int | str]:
    model = MODELS[id][number]
    roles = {name.split(".")[0] for name in model}
    even = EVEN | ({"vision.d_vision": 72} if (id, number) in QWEN_VL else {})
    return {**model, **{name: size for name, size in even.items() if name.split(".")[0] in roles}}


def features(model: Any, id: str, *, dtype: Any, device: str) -> Any:
    """What the parts before the decoder give, or what a policy does."""
    if id.endswith("_vl"):
        inputs = model.prepare([[5, model.config.image_token, 7]], [[np.full((60, 90, 3), 99, np.uint8)]])
        stream = model.embed(**inputs)
        assert stream.added is None or stream.added.dtype == dtype
        return model(**inputs)
    pixels = torch.ones(1, 3, 35, 35, device=device, dtype=dtype)
    if id in ("siglip", "dinov2"):
        return model(pixels)
    if id == "llava":
        return model.features(pixels)
    if id == "panovlm":
        return model.project(model.features(pixels.expand(1, 3, -1, -1, -1)))
    if id == "prismatic":
        return model.projector(model.features(pixels, None if model.fused is None else pixels))
    yes = torch.ones(1, 1, dtype=torch.bool, device=device)
    state = torch.ones(1, 17, device=device)
    inputs = {"pixels": pixels.float()[None], "image_masks": yes, "tokens": yes.long(), "token_mask": yes}
    noise = torch.ones(1, 4, 13, device=device)
    return model.sample_actions({**inputs, "state": state}, noise=noise, num_steps=2)


@pytest.mark.parametrize(("id", "number"), CASES)
@pytest.mark.parametrize("pipeline", ["panovlm", "cora"])
def test_on_another_device(id: str, number: int, pipeline: str) -> None:
    values = values_from(plan_of(id, sizes_of(id, number)), {**GIVEN, "pipeline": pipeline})
    with torch.device("meta"):
        model = referenced(family(id).model)(values)
    with torch.no_grad():
        assert features(model, id, dtype=torch.float32, device="meta").is_meta


@pytest.mark.parametrize(("id", "number"), CASES + QWEN_VL)
def test_in_bfloat16(id: str, number: int, tmp_path: Any) -> None:
    make(id, tmp_path / "model", set=sizes_of(id, number))
    config = dovetail.inspect(tmp_path / "model").config
    settings = {name: one for name, one in OPEN.items() if name in config and config[name].value is None}
    if "resampler.head_dim" in settings:
        del settings["resampler.heads"]
    model = load(tmp_path / "model", dtype="bfloat16", settings=settings)
    with torch.no_grad():
        found = features(model, id, dtype=torch.bfloat16, device="cpu")
    assert found.dtype == (torch.float32 if id.startswith("pi0") else torch.bfloat16)
    assert found.isfinite().all()
