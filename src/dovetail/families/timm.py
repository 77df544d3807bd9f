"""How timm's config.json speaks of a vision tower: the name of an architecture and what it is built with.

timm builds an architecture by its name and lets `model_args` replace any of its numbers, so one name of a
kind is enough: all numbers are written. The weights alone do not say which gelu they were trained with;
timm runs most SigLIP towers with the exact one, transformers all with the tanh approximation.

Source: timm@1.0.31 `models/_hub.py`, `models/_factory.py`, `models/vision_transformer.py`.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.dialect import Dialect

# The SigLIP architectures that timm builds with act_layer='gelu_tanh'; the others have the exact gelu.
_TANH = (
    "vit_base_patch32_siglip_*",
    "vit_large_patch16_siglip_*512",
    "vit_so400m_patch16_siglip_*",
    "vit_giantopt_patch16_siglip_*",
)
_WORDS = {"gelu_tanh": "gelu_pytorch_tanh"}
MEAN, STD = "pretrained_cfg.mean", "pretrained_cfg.std"


def activation(said: Any) -> Any:
    """The activation by transformers' word, from `model_args.act_layer` or the name of an architecture.

    >>> activation("gelu_tanh"), activation("vit_so400m_patch14_siglip_384"), activation("quick_gelu")
    ('gelu_pytorch_tanh', 'gelu', 'quick_gelu')
    """
    if not isinstance(said, str):
        return said
    if said.startswith("vit_"):
        return "gelu_pytorch_tanh" if any(fnmatchcase(said, pattern) for pattern in _TANH) else "gelu"
    return _WORDS.get(said, said)


def is_spoken(config: Mapping[str, Any]) -> bool:
    """Whether a config is timm's."""
    return "architecture" in config and "model_type" not in config


def siglip_config(plan: Blueprint, config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a SigLIP tower, with its pooling head or with an average in its place."""
    has_pool = "pool" in plan.features["vision"]
    name = "vit_so400m_patch14_siglip_384" if has_pool else "vit_so400m_patch14_siglip_gap_384"
    act_layer = {word: ours for ours, word in _WORDS.items()}.get(config.get("hidden_act", ""), "gelu")
    args = {"class_token": False, "global_pool": "map" if has_pool else "avg", "act_layer": act_layer}
    return _config(plan, name, args, math.isqrt(plan.sizes["vision.positions"]), said)


def dinov2_config(plan: Blueprint, config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a DINOv2 tower, whose class token may have a position of its own. timm's gated MLP
    counts gate and values as one width."""
    registers = plan.dims("vision").get("registers", 0) if "registers" in plan.features["vision"] else 0
    is_gated = plan.kinds["vision"].id == "dinov2_gated"
    name = f"vit_{'giant' if is_gated else 'large'}_patch14_{'reg4_' if registers else ''}dinov2"
    positions = plan.sizes["vision.positions"]
    has_class = math.isqrt(positions) ** 2 != positions
    args = {"init_values": 1e-5, "reg_tokens": registers, "no_embed_class": not has_class}
    return _config(plan, name, args, math.isqrt(positions - has_class), said, widths=1 + is_gated)


def dinov2_limit(plan: Blueprint) -> str | None:
    """What keeps timm from building a tower: positions of the class token and of none of the registers."""
    registers = plan.dims("vision").get("registers", 0) if "registers" in plan.features["vision"] else 0
    positions = plan.sizes["vision.positions"]
    is_one = registers and positions - math.isqrt(positions) ** 2 == 1
    return "only the class token has a position, and none of the registers" if is_one else None


def _config(
    plan: Blueprint,
    name: str,
    args: Mapping[str, Any],
    edge: int,
    said: Mapping[str, Any],
    *,
    widths: int = 1,
) -> dict[str, Any]:
    dims = plan.dims("vision")
    pixels = said.get("vision.image_size") or edge * dims["patch"]
    known = (("mean", "image_mean"), ("std", "image_std"))
    statistics = {key: said[setting] for key, setting in known if setting in said}
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": dims["d_vision"],
        "model_args": {
            "img_size": pixels,
            "patch_size": dims["patch"],
            "in_chans": dims["channels"],
            "embed_dim": dims["d_vision"],
            "depth": dims["layers"],
            "num_heads": dims["heads"],
            "mlp_ratio": _ratio(widths * dims["d_ff"], dims["d_vision"]),
            **args,
        },
        "pretrained_cfg": {
            "input_size": [dims["channels"], pixels, pixels],
            "fixed_input_size": True,
            "num_classes": 0,
            **statistics,
        },
    }


def _ratio(inner: int, width: int) -> float:
    """The ratio from which timm's `int(width * ratio)` gives the inner width back.

    >>> _ratio(4304, 1152), int(66 * _ratio(71, 66))
    (3.736111111111111, 71)
    """
    exact = inner / width
    return exact if int(width * exact) == inner else (inner + 0.5) / width


SIGLIP = Dialect(is_spoken, siglip_config)
DINOV2 = Dialect(is_spoken, dinov2_config, dinov2_limit)
