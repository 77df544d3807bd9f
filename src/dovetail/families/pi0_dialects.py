"""How openpi, lerobot and transformers speak of pi0 in config.json.

openpi and lerobot name published sizes and build nothing else: a model of other sizes has its numbers in
sections that only dovetail reads. transformers says all sizes.

Sources: openpi@15a9616 `models_pytorch/pi0_pytorch.py`, `models/gemma.py`; lerobot@0.4.4
`policies/{pi0,pi05}/configuration_*.py`, `configs/policies.py` (fields it does not know are errors);
transformers@5.23.0 `configuration_pi0.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.dialect import Dialect
from dovetail.families.decoder import GEMMA_EXPERT_SIZES, GEMMA_SIZES
from dovetail.families.siglip import SIZES as SIGLIP_SIZES

_VARIANTS = {**GEMMA_EXPERT_SIZES, "gemma_2b": GEMMA_SIZES["gemma_2b"]}
_KEYS = {"vlm": "paligemma_variant", "expert": "action_expert_variant"}
_TOWER = SIGLIP_SIZES["so400m-patch14-224"]
_SECTIONS = ("vision", "projection_dim", "paligemma", "action_expert", "state_dim")
_IMAGE_TOKEN = 257152


def variants(plan: Blueprint) -> dict[str, str]:
    """The names of the sizes of both decoders, where both are published ones."""
    found = {
        key: name
        for role, key in _KEYS.items()
        for name, size in _VARIANTS.items()
        if role in plan.kinds and plan.dims(role).items() >= size.items()
    }
    return found if len(found) == len(_KEYS) else {}


def limit(plan: Blueprint) -> str | None:
    """What is not of the one size that openpi and lerobot build."""
    if not variants(plan):
        return f"decoders of {', '.join(_VARIANTS)} are all that it builds, by name"
    other = {dim: size for dim, size in _TOWER.items() if plan.sizes[f"vision.{dim}"] != size}
    if other:
        return f"it builds one tower, SigLIP so400m with {next(iter(other))} = {_TOWER[next(iter(other))]}"
    return None


def openpi_config(plan: Blueprint, config: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """The config as openpi's converter writes it."""
    named = variants(plan)
    sections = {} if limit(plan) is None else {key: config[key] for key in _SECTIONS if key in config}
    return {
        "action_dim": plan.sizes["heads.d_action"],
        "action_horizon": config["action_horizon"],
        **named,
        "precision": config["torch_dtype"],
        **_periods(config),
        **sections,
    }


def lerobot_config(plan: Blueprint, config: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a lerobot policy. What it is fed and gives is left to the data set, as lerobot leaves it,
    and so is how many numbers of state the text of pi0.5 has, which no weight shows."""
    sections = {} if limit(plan) is None else {key: config[key] for key in _SECTIONS if key in config}
    pixels = math.isqrt(plan.sizes["vision.positions"]) * plan.sizes["vision.patch"]
    horizon = config["action_horizon"]
    state = {"max_state_dim": plan.sizes["heads.d_state"]} if "heads.d_state" in plan.sizes else {}
    return {
        "type": plan.family.id,
        **variants(plan),
        "dtype": config["torch_dtype"],
        "chunk_size": horizon,
        "n_action_steps": horizon,
        **state,
        "max_action_dim": plan.sizes["heads.d_action"],
        "min_period": config["min_period"],
        "max_period": config["max_period"],
        "image_resolution": [pixels, pixels],
        **sections,
    }


def transformers_config(plan: Blueprint, config: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """The config of transformers' PI0ForConditionalGeneration."""
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **config["vision"]}
    return {
        "architectures": ["PI0ForConditionalGeneration"],
        "model_type": "pi0",
        "vlm_config": {
            "model_type": "paligemma",
            "image_token_id": _IMAGE_TOKEN,
            "projection_dim": config["projection_dim"],
            "text_config": {"model_type": "gemma", **config["paligemma"]},
            "vision_config": {**vision, "projection_dim": config["projection_dim"]},
        },
        "dit_config": {"model_type": "gemma", **config["action_expert"]},
        "chunk_size": config["action_horizon"],
        "max_state_dim": plan.sizes["heads.d_state"],
        "max_action_dim": plan.sizes["heads.d_action"],
        "min_period": config["min_period"],
        "max_period": config["max_period"],
        "torch_dtype": config["torch_dtype"],
    }


def _periods(config: Mapping[str, Any]) -> dict[str, Any]:
    """The periods of the embedding of time, where they are not the ones that openpi has written in."""
    usual = {"min_period": 4e-3, "max_period": 4.0}
    return {key: config[key] for key, value in usual.items() if config[key] != value}


def _is_openpi(config: Mapping[str, Any]) -> bool:
    return "type" not in config and "model_type" not in config and "action_dim" in config


OPENPI = Dialect(_is_openpi, openpi_config, limit)
LEROBOT = Dialect(lambda config: "type" in config and "model_type" not in config, lerobot_config, limit)
TRANSFORMERS = Dialect(lambda config: "vlm_config" in config, transformers_config)
