"""What `make` is told beside sizes: values that no weight shows, which land in the config.json it writes."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, NamedTuple

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import Family
from dovetail.declare.part import Setting
from dovetail.edit.side_files.config_json import put, value_at, written_section
from dovetail.errors import UsageError, listed
from dovetail.explain.given import check_variant
from dovetail.explain.variant import VARIANT

DTYPE = "dtype"
# kinds of values of which one can stand for another
_ALIKE: tuple[Any, ...] = (bool, (int, float), (list, tuple))


class Told(NamedTuple):
    """What was said: sizes and kinds of parts, settings by full names, dtype of the weights, the variant."""

    sizes: dict[str, int | str]
    settings: dict[str, Any]
    dtype: str | None
    variant: str | None


def sorted_out(family: Family, given: Mapping[str, Any]) -> Told:
    """Which of the given names are sizes or kinds and which are settings.

    A setting that only one part has may be named without its part: `rope_theta` is `text.rope_theta`.

    Raises:
        UsageError: the family has neither a size nor a setting of a name.
    """
    dtype = str(given[DTYPE]) if DTYPE in given else None
    told = Told({}, {}, dtype, given.get(VARIANT) if family.variants else None)
    if told.variant is not None:
        check_variant(told.variant, family.variants.values())
    settings = [name for name, _ in _settings(family)]
    for name, value in given.items():
        whole = [full for full in dict.fromkeys(settings) if name in (full, full.rpartition(".")[2])]
        if _is_size(family, name):
            told.sizes[name] = value
        elif len(whole) == 1 or name in whole:
            told.settings[name if name in whole else whole[0]] = value
        elif whole:
            raise UsageError(f"several parts have a {name}", hint=f"say which: {listed(whole, 6)}")
        elif name != DTYPE and (name != VARIANT or not family.variants):
            raise _unknown(family, name)
    return told


def with_settings(config: Mapping[str, Any], plan: Blueprint, given: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json that says the given settings, wherever one would look for them; maps before what may
    stand in them.

    Raises:
        UsageError: the parts of this model do not have a setting, no config says it, or it is no value of
            its kind.
    """
    changed = deepcopy(dict(config))  # parts of it belong to the declaration
    for name, value in sorted(given.items(), key=lambda item: not isinstance(item[1], Mapping)):
        role, dot, plain = name.rpartition(".")
        own = plan.kinds[role].facts.settings if dot and role in plan.kinds else plan.family.settings
        setting = next((one for one in own if one.name == plain), None)
        if setting is None:
            kind = f"a {plan.kinds[role].id} here" if role in plan.kinds else "which is not in this model"
            raise UsageError(
                f"the {role}, {kind}, has no setting `{plain}`",
                hint=f"it has {listed([one.name for one in own])}" if role in plan.kinds else None,
            )
        if not setting.spellings:
            raise UsageError(f"{name} stands in no config", hint=f"it is always {setting.default}")
        _check(name, value, setting.default)
        roots = plan.family.config.roots.get(role, ("",)) if dot else ("",)
        places = [f"{root}.{spelling}".lstrip(".") for root in roots for spelling in setting.spellings]
        first = f"{written_section(plan, role) if dot else ''}.{setting.spellings[0]}".lstrip(".")
        for place in [one for one in places if value_at(changed, one) is not None] or [first]:
            put(changed, place, setting.spelled(value))
    return changed


def _settings(family: Family) -> Iterator[tuple[str, Setting]]:
    """Every setting that a model of the family may have, by its full name."""
    for setting in family.settings:
        yield setting.name, setting
    for role, parts in family.parts.items():
        for part in parts:
            for setting in part.facts.settings:
                yield f"{role}.{setting.name}", setting


def _is_size(family: Family, name: str) -> bool:
    """Whether a name is that of a part, whose kind is chosen, or of one of its sizes."""
    role, dot, dim = name.partition(".")
    return role in family.parts and (
        not dot or any(dim in part.dims or dim in part.subsets for part in family.parts[role])
    )


def _unknown(family: Family, name: str) -> UsageError:
    role, dot, plain = name.partition(".")
    settings = list(dict.fromkeys(full for full, _ in _settings(family)))
    if dot and role in family.parts:
        sizes = [dim for part in family.parts[role] for dim in part.dims]
        own = list(
            dict.fromkeys(
                [*sizes, *(one.partition(".")[2] for one in settings if one.startswith(f"{role}."))]
            )
        )
        near = [f"{role}.{one}" for one in get_close_matches(plain, own, 1)]
        hint = f"{role} has {listed(own, 20)}"
    else:
        short = [full.rpartition(".")[2] for full in settings]
        near = get_close_matches(name, [*family.parts, *short, DTYPE], 1)
        hint = f"parts: {listed(family.parts)}; settings: {listed(settings, 20)}"
    return UsageError(
        f"{family.id} has no size or setting `{name}`" + (f"; did you mean {near[0]}?" if near else ""),
        hint=hint,
    )


def _check(name: str, value: Any, default: Any) -> None:
    """Refuses a value that cannot stand where the default stands."""
    wanted = next((kinds for kinds in _ALIKE if isinstance(default, kinds)), type(default))
    is_right = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if default is not None and not is_right:
        raise UsageError(f"{name} cannot be {value!r}", hint=f"a value of its kind is {default!r}")
