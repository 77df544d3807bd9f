"""What a caller says of a checkpoint with `--set`, by names that may be short: which value is meant."""

from collections.abc import Collection, Mapping
from typing import Any

from dovetail.declare.family import Family
from dovetail.errors import UsageError, listed, suggestion
from dovetail.explain.documents import Found
from dovetail.explain.variant import VARIANT
from dovetail.report import Value

_WORDS = ("yes", "no", "on", "off", "y", "n", "TRUE", "FALSE")


def resolved(given: Mapping[str, Any], config: Mapping[str, Value], family: Family) -> dict[str, Any]:
    """The same by full names: `norm_first` is `resampler.norm_first` where only one part has it.

    A part by itself is given its kind: `projector` is `avgpool_mlp`.

    Raises:
        UsageError: there is no such value, or several parts have one, or it is no value of its kind.
    """
    full = {}
    for name, value in given.items():
        if name in family.parts:
            full[name] = family.kind(name, str(value)).id
            continue
        found = _conditional(name, config, family) or _full_name(name, config)
        if found == VARIANT:
            check_variant(value, family.variants.values())
        if isinstance(value, str) and value in _WORDS:
            raise UsageError(f"`{value}` is no value of {found}", hint="write true or false")
        default = config[found].value if found in config and config[found].source == "default" else None
        if isinstance(default, bool | int | float) and not _is_alike(value, default):
            raise UsageError(
                f"{found} cannot be {value!r}", hint=f"a value of its kind is {str(default).lower()}"
            )
        full[found] = value
    return full


def of_size(size: str, config: Mapping[str, Value], family: Family) -> dict[str, Found]:
    """What a published size of a family says of the values and kinds of parts that a checkpoint has.

    Raises:
        UsageError: the family has no such size.
    """
    name = size.removeprefix(f"{family.id}/")
    if name not in family.sizes:
        known = listed(family.sizes, 20)
        hint = f"published sizes: {known}" if known else "say single sizes with --set NAME=VALUE"
        raise UsageError(f"{family.id} has no size `{size}`", hint=suggestion(name, family.sizes, hint))
    roles = {full.partition(".")[0] for full in config if "." in full}
    return {
        full: Found(value.partition("+")[0] if isinstance(value, str) else value, f"--size {name}", full)
        for full, value in family.sizes[name].items()
        if full in config or full in roles
    }


def check_variant(value: Any, variants: Collection[str]) -> None:
    """Refuses what is no variant of a family.

    Raises:
        UsageError: it is none.
    """
    if value not in variants:
        known = listed(list(dict.fromkeys(variants)))
        raise UsageError(f"there is no variant `{value}`", hint=f"it is one of: {known}")


def _conditional(name: str, config: Mapping[str, Value], family: Family) -> str | None:
    """The full name of a setting that only counts where another one says so: a window that is off."""
    roles = {full.partition(".")[0] for full in config if "." in full}
    known = {
        f"{role}.{setting.name}"
        for role, parts in family.parts.items()
        for part in parts
        for setting in part.facts.settings
        if setting.when and role in roles
    }
    same = [full for full in known if name in (full, full.rpartition(".")[2])]
    return same[0] if len(same) == 1 else None


def _full_name(name: str, config: Mapping[str, Value]) -> str:
    if name in config or (name.endswith(".vocab_used") and name.removesuffix("_used") in config):
        return name
    same = [full for full in config if full.endswith(f".{name}")]
    if len(same) == 1:
        return same[0]
    if same:
        raise UsageError(f"several parts have a {name}", hint=f"say which: {listed(same, 6)}")
    from difflib import get_close_matches  # a typing error is rare, and this is read for every file

    near = get_close_matches(name, [*config, *(full.rpartition(".")[2] for full in config)], 1)
    still_open = [full for full, value in config.items() if value.source in ("default", "undetermined")]
    own = [full for full in config if full.startswith(f"{name.partition('.')[0]}.")]
    raise UsageError(
        f"this model has no value `{name}`" + (f"; did you mean {near[0]}?" if near else ""),
        hint=f"it has {listed(own, 40)}" if own else f"what no file says yet: {listed(still_open, 8)}",
    )


def _is_alike(value: Any, default: float) -> bool:
    """Whether a value can stand where this default stands."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool)
