"""Small checkpoints for tests: header listings and safetensors files from plain dicts."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dovetail.declare.blueprint import Blueprint, blueprint
from dovetail.dtypes import DTYPES
from dovetail.families import family
from dovetail.names import star


def open_under(folder: Path) -> list[str]:
    """The files below a folder that this process holds open: other threads may open and close theirs."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the listing's own
            continue
    return [path for path in found if path.startswith(str(folder))]


# Pairwise different primes (and multiples of heads), so that no two sizes coincide.
TINY: dict[str, dict[str, int | str]] = {
    "decoder": {
        "layers": 3,
        "d_model": 61,
        "q_heads": 4,
        "kv_heads": 2,
        "head_dim": 7,
        "d_ff": 83,
        "vocab": 211,
    },
    "vision": {
        "layers": 2,
        "d_vision": 66,
        "heads": 6,
        "d_ff": 71,
        "patch": 5,
        "positions": 49,
        "channels": 3,
    },
}
_DECODERS = {"text", "llm", "vlm"}
_QWEN_VISION: dict[str, int | str] = {
    "layers": 2,
    "d_vision": 66,
    "heads": 6,
    "d_ff": 71,
    "patch": 5,
    "frames": 2,
    "channels": 3,
}


def scoped(role: str, sizes: Mapping[str, int | str]) -> dict[str, int | str]:
    """Sizes of one role."""
    return {f"{role}.{name}": size for name, size in sizes.items()}


_TEXT_TOWER = {"layers": 2, "d_text": 42, "heads": 3, "d_ff": 29, "vocab": 97, "positions": 11}
# family -> a few tiny models of it, each with other kinds of parts or optional parts
MODELS: dict[str, list[dict[str, int | str]]] = {
    "qwen2_vl": [
        {
            **scoped("text", TINY["decoder"]),
            **scoped("vision", _QWEN_VISION),
            "merger.merge_area": 4,
        },
    ],
    "qwen2_5_vl": [
        {
            **scoped("text", TINY["decoder"]),
            **scoped("vision", {**_QWEN_VISION, "d_ff": 71}),
            "merger.merge_area": 4,
        },
        {
            **scoped("text", TINY["decoder"]),
            **scoped("vision", {**_QWEN_VISION, "d_ff": 73}),
            "merger.merge_area": 9,
            "head": "head",
        },
    ],
    "qwen3_vl": [
        {
            **scoped("text", TINY["decoder"]),
            **scoped("vision", {**_QWEN_VISION, "layers": 5, "positions": 49}),
            "merger.merge_area": 4,
            "deepstack.levels": 2,
        },
        {
            **scoped("text", {**TINY["decoder"], "layers": 4}),
            **scoped("vision", {**_QWEN_VISION, "layers": 5, "positions": 121}),
            "merger.merge_area": 9,
            "deepstack.levels": 3,
            "head": "head",
        },
    ],
    "llava_onevision": [
        {
            **scoped("text", TINY["decoder"]),
            **scoped("vision", TINY["vision"]),
            "head": "head",
            "projector.levels": 1,
        },
    ],
    "llava": [
        {
            **scoped("text", TINY["decoder"]),
            **scoped("vision", {**TINY["vision"], "positions": 50}),
            "head": "head",
            "projector.levels": 1,
        },
    ],
    "paligemma": [{**scoped("text", TINY["decoder"]), **scoped("vision", TINY["vision"])}],
    "prismatic": [
        {
            "vision": "siglip+pool",
            **scoped("vision", TINY["vision"]),
            **scoped("llm", TINY["decoder"]),
            "head": "head",
        },
        {
            "projector": "avgpool_mlp",
            "llm": "qwen2",
            **scoped("vision", TINY["vision"]),
            **scoped("llm", TINY["decoder"]),
        },
        {
            "projector": "linear+bias",
            "llm": "llama",
            **scoped("vision", TINY["vision"]),
            **scoped("llm", TINY["decoder"]),
        },
        {
            "vision": "dinov2+registers",
            **scoped("vision", {**TINY["vision"], "d_vision": 58, "heads": 2, "registers": 4}),
            "fused": "siglip+pool",
            **scoped("fused", TINY["vision"]),
            "projector": "fused_gelu_mlp",
            "llm": "llama",
            **scoped("llm", TINY["decoder"]),
            "head": "head",
        },
    ],
    "pi0": [
        {
            **scoped("vision", TINY["vision"]),
            **scoped("vlm", TINY["decoder"]),
            **scoped("expert", {"d_model": 53, "d_ff": 59}),
            **scoped("heads", {"d_action": 13, "d_state": 17}),
        },
    ],
    "pi05": [
        {
            **scoped("vision", TINY["vision"]),
            **scoped("vlm", TINY["decoder"]),
            **scoped("expert", {"d_model": 53, "d_ff": 59}),
            **scoped("heads", {"d_action": 13}),
        },
    ],
    "panovlm": [
        {
            **scoped("vision", TINY["vision"]),
            **scoped("text", TINY["decoder"]),
            **scoped("resampler", sizes),
            "resampler": kind,
        }
        for kind, sizes in (
            (
                "bimamba",
                {
                    "hidden_dim": 47,
                    "depth": 2,
                    "d_inner": 89,
                    "d_state": 11,
                    "d_conv": 4,
                    "dt_rank": 3,
                    "out_dim": 43,
                },
            ),
            (
                "qformer",
                {
                    "queries": 9,
                    "vocab": 97,
                    "positions": 29,
                    "types": 2,
                    "layers": 2,
                    "d_ff": 101,
                    "heads": 6,
                    "out_dim": 43,
                },
            ),
            (
                "perceiver+ff+proj",
                {"latents": 9, "layers": 2, "heads": 2, "head_dim": 19, "d_ff": 101, "out_dim": 43},
            ),
            (
                "c_abstractor+readout",
                {"hidden_dim": 47, "depth": 2, "kernel": 7, "d_inner": 89, "d_squeeze": 23, "out_dim": 43},
            ),
            ("conv+resize", {"repeats": 1, "stages": 2, "blocks": 2, "kernel": 7, "out_dim": 43}),
            ("mlp_3", {"hidden_dim": 47, "out_dim": 43}),
            ("mlp_2_plain", {"hidden_dim": 47, "out_dim": 43}),
            ("spatial_pool_conv_2", {"hidden_dim": 47, "kernel": 3, "out_dim": 43}),
            ("spatial_pool_or_masked_drop_2", {"hidden_dim": 47, "out_dim": 43}),
            ("identity_or_avg", {"out_dim": 43}),
        )
    ],
    "siglip": [
        {"vision": "siglip+pool", **scoped("vision", TINY["vision"])},
        {"vision": "siglip", **scoped("vision", TINY["vision"])},
    ],
    "siglip_text": [scoped("text", {**_TEXT_TOWER, "d_out": 33})],
    "clip": [
        {
            **scoped("vision", {**TINY["vision"], "positions": 50}),
            "text": "clip_text",
            **scoped("text", _TEXT_TOWER),
            "visual_projection": "clip_projection",
            "visual_projection.d_out": 33,
            "text_projection": "clip_projection",
            "scale": "clip_scale",
        },
        scoped("vision", {**TINY["vision"], "positions": 50}),
    ],
    "clip_text": [
        scoped("text", _TEXT_TOWER),
        {**scoped("text", _TEXT_TOWER), "text_projection": "clip_projection", "text_projection.d_out": 33},
    ],
    "dinov2": [
        {"vision": "dinov2+registers", **scoped("vision", {**TINY["vision"], "registers": 4})},
        {"vision": "dinov2_gated", **scoped("vision", TINY["vision"])},
    ],
    "llama": [{**scoped("text", TINY["decoder"]), "head": "head"}],
    "mistral": [
        {**scoped("text", TINY["decoder"]), "head": "head"},
        {"text": "ministral", **scoped("text", TINY["decoder"])},
    ],
    "smollm3": [scoped("text", TINY["decoder"])],
    "qwen2": [scoped("text", TINY["decoder"]), {**scoped("text", TINY["decoder"]), "head": "head"}],
    "qwen3": [scoped("text", TINY["decoder"]), {**scoped("text", TINY["decoder"]), "head": "head"}],
    "gemma": [scoped("text", TINY["decoder"])],
}


def plan_of(id: str, model: Mapping[str, int | str]) -> Blueprint:
    """The blueprint of one of MODELS."""
    return blueprint(family(id), model)


def header_of(plan: Blueprint, layout: str, dtype: str = "BF16") -> dict[str, list[Any]]:
    """The header listing of a model in a layout, `{}` if the layout has no names for one of its parts."""
    one = plan.family.layout(layout)
    fits = all(
        any(mount.naming in part.namings for mount in one.mounts[role])
        for role, part in plan.kinds.items()
        if role in one.mounts
    )
    if not fits or (not set(plan.kinds) <= set(one.mounts) and len(one.mounts) > 1):
        return {}
    return {stored.name: [dtype, list(stored.shape)] for stored in plan.stored(one)}


def write_listing(path: Path, header: Mapping[str, Any]) -> Path:
    """A header listing on disk."""
    path.write_text(json.dumps(header))
    return path


def safetensors_bytes(header: Mapping[str, Any], *, data: bytes | None = None, pad: int = 0) -> bytes:
    """A safetensors file from `{name: [dtype, shape]}`, all zeros; a dict value is written as it is."""
    offset = 0
    full: dict[str, Any] = {}
    for name, value in header.items():
        if isinstance(value, dict):
            full[name] = value
            continue
        dtype, shape = value
        size = math.prod(shape) * DTYPES[dtype].bits // 8
        full[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return raw_safetensors(
        json.dumps(full).encode() + b" " * pad, data if data is not None else bytes(offset)
    )


def raw_safetensors(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file from the bytes of its header."""
    return len(header).to_bytes(8, "little") + header + data


def first_and_last(names: Iterable[str]) -> list[str]:
    """Of names that differ in their numbers only, the first and the last."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(star(name), []).append(name)
    return list(dict.fromkeys(name for group in alike.values() for name in (group[0], group[-1])))
