"""Every family that dovetail knows, in one table, and those that other packages bring.

A package adds a family by an entry point in the group `dovetail.families` whose value is a `Family` or
a tuple of them (`docs/guides/family.md`). Built-in families are asked first; the entry points are read
when no built-in family explains a file, or when a family is asked for by name.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dovetail.declare.family import Family
from dovetail.errors import DeclarationError, DovetailError, UsageError, bare, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# id -> module and attribute, in the order in which `dovetail families` lists them
BUILT_IN = {
    "qwen2_vl": ("qwen2_vl", "FAMILY"),
    "qwen2_5_vl": ("qwen2_5_vl", "FAMILY"),
    "qwen3_vl": ("qwen3_vl", "FAMILY"),
    "llava_onevision": ("llava_onevision", "FAMILY"),
    "llava": ("llava", "FAMILY"),
    "paligemma": ("paligemma", "FAMILY"),
    "prismatic": ("prismatic", "FAMILY"),
    "pi0": ("pi0", "PI0_FAMILY"),
    "pi05": ("pi0", "PI05_FAMILY"),
    "panovlm": ("panovlm", "FAMILY"),
    "siglip": ("siglip", "FAMILY"),
    "siglip_text": ("siglip_text", "FAMILY"),
    "clip": ("clip_models", "FAMILY"),
    "clip_text": ("clip_models", "TEXT_FAMILY"),
    "dinov2": ("dinov2", "FAMILY"),
    "llama": ("text", "LLAMA_FAMILY"),
    "mistral": ("text", "MISTRAL_FAMILY"),
    "smollm3": ("text", "SMOLLM3_FAMILY"),
    "qwen2": ("text", "QWEN2_FAMILY"),
    "qwen3": ("text", "QWEN3_FAMILY"),
    "gemma": ("text", "GEMMA_FAMILY"),
}


def built_in() -> Iterator[Family]:
    """The families of dovetail itself, each imported when it is asked for."""
    for module, name in BUILT_IN.values():
        yield getattr(import_module(f"dovetail.families.{module}"), name)


@cache
def third_party() -> tuple[Family, ...]:
    """The families that installed packages bring.

    Raises:
        DeclarationError: an entry point cannot be loaded, does not give a family, or takes the id of
            another one.
    """
    from importlib.metadata import entry_points

    found: list[Family] = []
    for point in entry_points(group="dovetail.families"):
        value = _loaded(point)
        families = value if isinstance(value, tuple) else (value,)
        for family in families:
            if not isinstance(family, Family):
                raise DeclarationError(
                    f"entry point `{point.name}` gives no family",
                    found=type(family).__name__,
                    **_origin(point),
                )
            if family.id in BUILT_IN or any(family.id == other.id for other in found):
                raise DeclarationError(f"two families are called `{family.id}`", **_origin(point))
            found.append(family)
    return tuple(found)


def _loaded(point: "EntryPoint") -> Any:
    try:
        return point.load()
    except Exception as error:
        why = error.message if isinstance(error, DovetailError) else error  # its hint is not the reader's
        message = f"entry point `{point.name}` cannot be loaded: {type(error).__name__}: {why}"
        raise DeclarationError(message, **_origin(point)) from error


def _origin(point: "EntryPoint") -> dict[str, Any]:
    """Which package brings an entry point, and what to do about it."""
    package = point.dist.name if point.dist else None
    hint = f"repair or uninstall `{package}`" if package else None
    return {"value": point.value, "package": package, "hint": hint}


def all_families() -> tuple[Family, ...]:
    """Built-in families and those of other packages."""
    return (*built_in(), *third_party())


def family(id: str) -> Family:
    """The family of this id; `Qwen2-VL` is `qwen2_vl` too.

    Raises:
        UsageError: there is none.
    """
    for one in built_in():
        if one.id == id:
            return one
    for one in third_party():
        if one.id == id:
            return one
    for one in all_families():
        if bare(one.id) == bare(id):
            return one
    raise UsageError(f"no family is called `{id}`", hint=_known(id))


def _known(id: str) -> str:
    """What families there are, first the one that is known by a name like this: its project, its layout."""
    names: dict[str, list[str]] = {}
    for one in all_families():
        words = [one.id, *one.title.split(" / "), *one.variants, *one.config.model_types]
        words += [layout.id for layout in one.layouts]
        for word in dict.fromkeys(map(bare, words)):
            names.setdefault(word, []).append(one.id)
    known = f"known families: {', '.join(one.id for one in all_families())}"
    near = nearest(id, [word for word, ids in names.items() if len(ids) <= 2])
    return f"did you mean `{'` or `'.join(names[near])}`? {known}" if near else known
