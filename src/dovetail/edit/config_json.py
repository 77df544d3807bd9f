"""The config.json of a model, in the spellings that transformers reads, from its sizes."""

import math
from collections.abc import Mapping
from typing import Any

from dovetail.layout.blueprint import Blueprint


def config_json(plan: Blueprint, *, dtype: str, is_tied: bool | None) -> dict[str, Any]:
    """The config, flat or nested as the family's own files are; empty if the family has none."""
    keys = plan.family.config
    config: dict[str, Any] = {}
    if not keys.model_types:
        return config
    if keys.architecture:
        config["architectures"] = [keys.architecture]
    config["model_type"] = keys.model_types[0]
    for dotted, value in keys.constants.items():
        _put(config, dotted, value(plan) if callable(value) else value)
    for role, part in plan.kinds.items():
        section = keys.write_roots.get(role, keys.roots.get(role, ("",))[0])
        dims = plan.dims(role)
        for dim, spellings in part.facts.spellings.items():
            if dim in dims:
                for key, value in _spell(spellings[0], dims[dim], dims, config, section).items():
                    _put(config, f"{section}.{key}".lstrip("."), value)
        for setting in part.facts.settings:
            if setting.spellings and setting.default not in (None, {}):
                _put(config, f"{section}.{setting.spellings[0]}".lstrip("."), setting.default, keep=True)
    if is_tied is not None:
        config["tie_word_embeddings"] = is_tied
    config["torch_dtype"] = dtype
    return config


def _spell(
    spelling: str, size: int, dims: Mapping[str, int], config: Mapping[str, Any], section: str
) -> dict[str, Any]:
    """The keys that give a size back under one spelling: `(image_size // patch_size)^2`, `a * a`, `a * b`."""
    if spelling.startswith("("):
        return {spelling[1:].split(" // ", maxsplit=1)[0]: math.isqrt(size) * dims["patch"]}
    if " * " in spelling:
        first, second = spelling.split(" * ")
        if first == second:
            return {first: math.isqrt(size)}
        ratio = size / dims["d_vision"]
        return {first: int(ratio) if ratio == int(ratio) else ratio}
    return {spelling: size}


def _put(config: dict[str, Any], dotted: str, value: Any, *, keep: bool = False) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    if not (keep and key in config):
        config[key] = value
