"""The config.json of a model, in the spellings that transformers reads, from its sizes and settings."""

import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import Layout
from dovetail.declare.part import Setting
from dovetail.declare.spelling import written
from dovetail.explain.corrections import Correction

_NONE: Mapping[str, Any] = MappingProxyType({})
_TIED, _TEXT_SECTIONS = "tie_word_embeddings", ("text_config", "llm_config")


def config_json(
    plan: Blueprint,
    *,
    dtype: str,
    is_tied: bool | None,
    settings: Mapping[str, Any] = _NONE,
    extra: Mapping[str, Any] = _NONE,
    layout: Layout | None = None,
) -> dict[str, Any]:
    """The config, flat or nested as the files of the family and layout are; empty if the family has none.

    `settings` are values by `role.name` or `name` that take the place of the family's defaults, `extra`
    values by dotted key.
    """
    keys = plan.family.config
    dialect = layout.dialect if layout is not None else None
    config: dict[str, Any] = {}
    if not keys.model_types and dialect is None:
        return config
    if keys.architecture:
        config["architectures"] = [keys.architecture]
    if keys.model_types:
        config["model_type"] = keys.model_types[0]
    absent = _sections_of_absent_parts(plan)
    for dotted, value in keys.constants.items():
        said = value(plan) if callable(value) else value
        if said is not None and dotted.partition(".")[0] not in absent:
            put(config, dotted, said)
    for role, part in plan.kinds.items():
        section = written_section(plan, role)
        dims = plan.dims(role)
        known = {spellings[0]: dims[dim] for dim, spellings in part.facts.spellings.items() if dim in dims}
        for dim, spellings in part.facts.spellings.items():
            if dim in dims:
                for key, value in written(spellings[0], dims[dim], known).items():
                    put(config, _dotted(section, key), value)
        for feature, key in part.facts.flags.items():
            if feature in plan.features.get(role, ()):
                put(config, _dotted(section, key), True)
        for rule in part.facts.layer_kinds:
            words = {
                member: word
                for name, word in part.kinds_of(rule).items()
                for member in plan.subsets[f"{role}.{name}"]
            }
            put(config, _dotted(section, rule.spelling), [words[member] for member in sorted(words)])
        for setting in part.facts.settings:
            said = settings.get(f"{role}.{setting.name}")
            if setting.spellings and said not in (None, {}):
                put(config, _dotted(section, setting.spellings[0]), setting.spelled(said))
            elif setting.spellings and not setting.when and setting.default not in (None, {}, []):
                value = setting.spelled(setting.default)
                put(config, _dotted(section, setting.spellings[0]), value, keep=True)
    for setting in plan.family.settings:
        for dotted in _places(config, setting) if setting.name in settings else ():
            put(config, dotted, settings[setting.name])
    if is_tied is not None:
        config = with_tie_flags(config, is_tied, always=True)
    for dotted, value in extra.items():
        put(config, dotted, value)
    config["torch_dtype"] = dtype
    return config if dialect is None else dialect.write(plan, config, settings)


def with_tie_flags(config: Mapping[str, Any], is_tied: bool, *, always: bool = False) -> dict[str, Any]:
    """A config that says at the top and for the text whether the head is tied, if it says so at all.

    transformers reads the flag in one place or the other, by version and family.
    """
    sections = [key for key in _TEXT_SECTIONS if isinstance(config.get(key), dict)]
    if not always and not any(_TIED in one for one in (config, *(config[key] for key in sections))):
        return dict(config)
    return {**config, **{key: {**config[key], _TIED: is_tied} for key in sections}, _TIED: is_tied}


def _sections_of_absent_parts(plan: Blueprint) -> set[str]:
    """The sections that are only about parts which this model does not have, such as a frozen tower."""
    roots = plan.family.config.roots
    here = {section for role in plan.kinds for section in roots.get(role, ())}
    return {section for role in plan.family.parts for section in roots.get(role, ())} - here - {""}


def written_section(plan: Blueprint, role: str) -> str:
    """The dotted section of a written config that holds a part's values, "" for the top."""
    keys = plan.family.config
    section = keys.write_roots.get(role, keys.roots.get(role, ("",))[0])
    return str(section(plan) if callable(section) else section)


def _places(config: Mapping[str, Any], setting: Setting) -> Iterator[str]:
    """The spellings under which a config has a setting of the whole model."""
    return (dotted for dotted in setting.spellings if value_at(config, dotted) is not None)


def value_at(config: Mapping[str, Any], dotted: str) -> Any:
    """What a config has in a place, or None."""
    place: Any = config
    for key in dotted.split("."):
        place = place.get(key) if isinstance(place, dict) else None
    return place


def _dotted(section: str, key: str) -> str:
    return f"{section}.{key}".lstrip(".")


def put(config: dict[str, Any], dotted: str, value: Any, *, keep: bool = False) -> None:
    """Writes a value in its place; with `keep` only where there is none."""
    *sections, key = dotted.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    if not (keep and key in config):
        config[key] = value


def corrected(text: bytes, corrections: Iterable[Correction]) -> bytes:
    """A config with its wrong statements put right."""
    try:
        config = json.loads(text)
    except ValueError:  # examining it has said so
        return text
    for one in corrections:
        put(config, one.found.key, one.value)
    return (json.dumps(config, indent=2) + "\n").encode()


def adapted(text: bytes, changes: Mapping[str, Any]) -> bytes:
    """A config with those of its values changed that it has and that are no longer so."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):  # examining it has said so
        return text
    if not isinstance(config, dict):
        return text
    both_spellings = dict(changes)
    if "torch_dtype" in changes:
        both_spellings["dtype"] = changes["torch_dtype"]
    is_changed = False
    sections = [
        config,
        *(config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)),
    ]
    for section in sections:
        for key, value in both_spellings.items():
            if key in section and section[key] != value:
                section[key] = value
                is_changed = True
    return (json.dumps(config, indent=2) + "\n").encode() if is_changed else text
