"""A model as its config describes it, before there are any weights.

The config says the family (`model_type`) and most sizes; what it leaves out may come from the caller,
from models that donate parts, or from a convention, each with its source.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dovetail.declare.blueprint import Blueprint, blueprint
from dovetail.declare.family import Family
from dovetail.declare.part import Part
from dovetail.errors import UsageError, listed
from dovetail.explain.accounts import tie_flags
from dovetail.explain.documents import Documents
from dovetail.explain.variant import VARIANT, variant_of
from dovetail.report import Value

# Where a size stands that no config says.
_DONATED = "as the donor has it"


class Described(NamedTuple):
    """A model without weights, and the source of each size and setting."""

    plan: Blueprint
    config: Mapping[str, Value]


def family_of(documents: Documents, families: Iterable[Family], place: str) -> Family:
    """The family that a config names.

    Raises:
        UsageError: it names none, or one that is not known.
    """
    said = documents.model_type
    if said is None:
        raise UsageError(f"`{place}` names no model_type", hint="give a config.json, or FAMILY/SIZE")
    known: list[str] = []
    for family in families:
        if said in family.config.model_types or said in family.variants:
            return family
        known += family.config.model_types
    raise UsageError(
        f"`{place}` is a `{said}`, which dovetail does not know", hint=f"known: {listed(known, 20)}"
    )


def described(
    family: Family,
    documents: Documents,
    *,
    donated: Mapping[str, Mapping[str, int]],
    published: Mapping[str, int | str] | None = None,
) -> Described:
    """The model that documents describe; `donated` are sizes by role that donors have.

    Raises:
        UsageError: a size is missing, or sizes contradict each other.
    """
    kinds = {role: _kind(family, role, documents, published) for role in family.parts}
    config: dict[str, Value] = {}
    sizes: dict[str, int | str] = {}
    for role, part in kinds.items():
        if part is None:
            continue
        roots = family.config.roots.get(role, ("",))
        said = {feature: documents.find((key,), roots) for feature, key in part.facts.flags.items()}
        granted = {feature: found for feature, found in said.items() if found and found.value is True}
        sizes[role] = "+".join((part.id, *granted))
        for feature, yes in granted.items():
            config[f"{role}.{part.facts.flags[feature]}"] = Value(True, "config", yes.place)
        for dim in part.dims:
            value = _size(family, role, part, dim, documents=documents, donated=donated, published=published)
            if value is not None:
                config[f"{role}.{dim}"] = value
                sizes[f"{role}.{dim}"] = value.value
        for setting in part.facts.settings:
            name = f"{role}.{setting.name}"
            if found := documents.stamped(name) or documents.find(setting.spellings, roots):
                config[name] = Value(found.value, found.source, found.place)
    for name, other in family.joined.items():
        if name in config and config[name].evidence == _DONATED and other in sizes:
            del config[name], sizes[name]  # it is as large as what it meets in the new model
    plan = blueprint(family, _without_joined(family, sizes))
    for name, size in plan.sizes.items():
        config.setdefault(name, Value(size, "config", "what it is joined to"))
    for setting in family.settings:
        if found := documents.stamped(setting.name) or documents.find(setting.spellings, ("",)):
            config[setting.name] = Value(found.value, found.source, found.place)
    if family.variants:
        config[VARIANT], _ = variant_of(family, documents)
    return Described(plan, config)


def _kind(
    family: Family, role: str, documents: Documents, published: Mapping[str, int | str] | None
) -> Part | None:
    """The kind of part in a role; None for an optional one that the config does not want."""
    if published is not None:
        if role in published:
            return family.kind(role, str(published[role]).split("+", maxsplit=1)[0])
        return None if role in family.optional else family.parts[role][0]
    if role in family.ties and role in family.optional:
        if said := documents.given.get(role):
            return family.kind(role, str(said))
        flags = tie_flags(family, family.ties[role], documents)
        return None if not flags or any(flag.value for flag in flags) else family.parts[role][0]
    if role in family.optional:
        return None
    if said := documents.given.get(role):
        return family.kind(role, str(said))
    roots = family.config.roots.get(role, ("",))
    named = documents.first_named(family.parts[role], roots)
    fitting = [part for part in named if _agrees(part, documents, roots)]
    return (fitting or named or family.parts[role])[0]


def _agrees(part: Part, documents: Documents, roots: tuple[str, ...]) -> bool:
    """Whether a config says nothing else of what the kind of a part says by itself."""
    said = {name: documents.find((name,), roots) for name in part.facts.constants}
    return all(found is None or found.value == part.facts.constants[name] for name, found in said.items())


def _size(
    family: Family,
    role: str,
    part: Part,
    dim: str,
    *,
    documents: Documents,
    donated: Mapping[str, Mapping[str, int]],
    published: Mapping[str, int | str] | None,
) -> Value | None:
    name = f"{role}.{dim}"
    if given := documents.stamped(name):
        return Value(_number(given.value, name, given.place), given.source, given.place)
    if published and isinstance(size := published.get(name), int):
        return Value(size, "config", "the published size")
    roots = family.config.roots.get(role, ("",))
    if found := documents.find(part.facts.spellings.get(dim, ()), roots):
        return Value(_number(found.value, name, found.place), "config", found.place)
    if (size := donated.get(role, {}).get(dim)) is not None:
        return Value(size, "weights", _DONATED)
    if name in family.joined:
        return None
    conventions = {one: (value, why) for one, value, why in part.facts.conventions}
    if dim in conventions:
        return Value(conventions[dim][0], "default", conventions[dim][1])
    return None


def _number(value: Any, name: str, place: str) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(
            f"{name} cannot be {value!r}, as {place} says", hint="a size is a whole number above 0"
        )
    return value


def _without_joined(family: Family, sizes: Mapping[str, int | str]) -> dict[str, int | str]:
    """The sizes without those of optional parts that are not there."""
    roles = {name for name in sizes if "." not in name}
    return {name: size for name, size in sizes.items() if name.split(".", maxsplit=1)[0] in roles}
