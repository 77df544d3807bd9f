"""What a model is built from: the kind of each part and a value for every name, each with its source.

A model's config is a dataclass whose field names are the names of dims, settings and features of a
part, so that one function fills any of them. A value that nothing decides is an error that says how to
give it; a default is only ever one that the declaration labels as such.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dovetail.checkpoint import Checkpoint
from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import Family
from dovetail.declare.part import Part
from dovetail.errors import CheckpointError, UsageError, listed
from dovetail.families import family as family_of
from dovetail.report import Value

Config = TypeVar("Config")
Built = TypeVar("Built")
_STAND_INS: dict[Any, Any] = {int: 1, float: 1.0, bool: False, str: "", tuple: (), Mapping: {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """A family with a kind for each role that is there, and values by `role.name`.

    A tied head is no role: `kinds` has only the parts with tensors of their own. `features` has the
    marked leaves of each role that are there (`qkv_bias`, `pool`). `lost` are heads that are not here and
    are no token table either: of bare models (`Qwen2Model`). Values that are asked for and not known are an
    error at once, or all of them are noted in `unknown`.
    """

    family: Family
    kinds: Mapping[str, Part]
    features: Mapping[str, frozenset[str]]
    values: Mapping[str, Value]
    lost: frozenset[str] = frozenset()
    unknown: dict[str, str] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Values":
        """Itself: nothing of it ever changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A family is pickled by its id, and a part by its own: another process declares them itself."""
        kinds = {role: part.id for role, part in self.kinds.items()}
        return _declared, (self.family.id, kinds, self.features, self.values, self.lost)

    def has(self, role: str) -> bool:
        """Whether the model has tensors of its own for a role."""
        return role in self.kinds

    def kind(self, role: str) -> str:
        """The id of the part that fills a role.

        Raises:
            UsageError: the role is not there.
        """
        if role not in self.kinds:
            raise UsageError(
                f"the {role} of {self.family.id} is not in this checkpoint",
                hint=f"it holds {listed(self.kinds)}",
            )
        return self.kinds[role].id

    def integer(self, name: str) -> int:
        """One value that is a whole number.

        Raises:
            UsageError: nothing decides it, or it is none.
        """
        number: int = _as_type(name, self._known(name, int), int)
        return number

    def text(self, name: str) -> str:
        """One value that is a word.

        Raises:
            UsageError: nothing decides it, or it is none.
        """
        word: str = _as_type(name, self._known(name, str), str)
        return word

    def unsaid(self, name: str) -> Value | None:
        """What a quiet setting of the family is where nothing says it."""
        quiet = (one for one in self.family.settings if one.is_quiet and one.name == name)
        return next((Value(one.default, "default", one.why) for one in quiet), None)

    def _known(self, name: str, wanted: type) -> Value:
        found = self.values.get(name)
        if found is None or found.value is None:
            unknown = {name: found.evidence if found else "nothing declares it"}
            if self.unknown is None:
                raise _undecided(self, unknown)
            self.unknown.update(unknown)
            return Value(_STAND_INS[wanted], "undetermined", "stands in")
        return found


def _declared(
    id: str,
    kinds: Mapping[str, str],
    features: Mapping[str, frozenset[str]],
    values: Mapping[str, Value],
    lost: frozenset[str],
) -> Values:
    """The values of a pickle.

    Raises:
        UsageError: no family is declared here under this id, or it has no such parts.
    """
    family = family_of(id)
    parts = {role: family.kind(role, kind) for role, kind in kinds.items()}
    return Values(family=family, kinds=parts, features=features, values=values, lost=lost)


def values_of(checkpoint: Checkpoint) -> Values:
    """The values of an opened checkpoint.

    Raises:
        CheckpointError: no family claims the checkpoint.
    """
    if checkpoint.report.family is None:
        first = checkpoint.report.findings[0]  # a file that no family claims has an error that says so
        raise CheckpointError(first.message, checkpoint=checkpoint.report.path, hint=first.hint)
    return Values(
        family=checkpoint.family,
        kinds=checkpoint.kinds,
        features=checkpoint.features,
        values=checkpoint.report.config,
        lost=frozenset(tie.role for tie in checkpoint.report.ties if tie.is_lost),
    )


def values_from(plan: Blueprint, given: Mapping[str, Any] | None = None) -> Values:
    """The values of a model that is only planned: its sizes, the labelled defaults, and what is given."""
    values = {name: Value(size, "given", "the plan") for name, size in plan.sizes.items()}
    values |= {name: Value(list(of), "given", "the plan") for name, of in plan.subsets.items()}
    scoped = [(f"{role}.", part.facts.settings) for role, part in plan.kinds.items()]
    for prefix, settings in [("", plan.family.settings), *scoped]:
        # what a setting with a `when` depends on is off, as models are made
        for setting in (one for one in settings if not one.is_quiet and not one.when):
            source = "undetermined" if setting.default is None else "default"
            values[prefix + setting.name] = Value(setting.default, source, setting.why)
    for variant in list(plan.family.variants.values())[:1]:
        values["variant"] = Value(variant, "default", "the first of the family")
    values |= {name: Value(value, "given", "the caller") for name, value in (given or {}).items()}
    kinds = plan.kinds
    features = {
        role: frozenset((*part.features, *plan.features.get(role, ()))) for role, part in kinds.items()
    }
    return Values(family=plan.family, kinds=kinds, features=features, values=values)


def fill(config: type[Config], values: Values, role: str = "", **more: Any) -> Config:
    """A config whose every field is the value of `role.field`; `more` are fields known otherwise.

    A boolean field that names a feature of the part says whether the part has it. A field with a default
    keeps it where nothing declares a value.

    Raises:
        UsageError: nothing decides a value, or one is not what the field can hold.
    """
    scope = f"{role}." if role else ""
    features = _all_features(values.kinds[role]) if role in values.kinds else frozenset()
    filled = dict(more)
    unknown: dict[str, str] = {}
    hints = get_type_hints(config)
    for field in fields(config):  # type: ignore[arg-type]
        name = f"{scope}{field.name}"
        if field.name in filled:
            continue
        if field.name in features:
            filled[field.name] = field.name in values.features[role]
            continue
        found = values.values.get(name) or values.unsaid(name)
        if found is None and field.default is not MISSING:
            continue
        if found is None or found.value is None:
            unknown[name] = found.evidence if found else "nothing declares it"
            filled[field.name] = _STAND_INS.get(get_origin(hints[field.name]) or hints[field.name])
            continue
        filled[field.name] = _as_type(name, found, hints[field.name])
    if unknown and values.unknown is None:
        raise _undecided(values, unknown)
    if values.unknown is not None:
        values.unknown.update(unknown)
    return config(**filled)


def asking_at_once(build: Callable[[Values], Built], values: Values) -> Built:
    """What `build` makes of values; whatever nothing decides is asked for in one error.

    Raises:
        UsageError: something is not known.
    """
    try:
        return build(values)
    except UsageError:
        trial = replace(values, unknown={})
        # with values that stand in for others anything may fail that `build` does with them
        with suppress(Exception):
            build(trial)
        if trial.unknown:
            raise _undecided(values, trial.unknown) from None
        raise


def _all_features(part: Part) -> frozenset[str]:
    return frozenset((*part.features, *part.optional))


def _as_type(name: str, found: Value, wanted: Any) -> Any:
    """The value as the field's type."""
    try:
        return _cast(found.value, wanted)
    except ValueError:
        kind = wanted.__name__ if isinstance(wanted, type) and not get_args(wanted) else str(wanted)
        raise UsageError(
            f"{name} cannot be {found.value!r}",
            expected=kind,
            source=found.evidence,
            hint="correct it there, or say another with --set",
        ) from None


def _cast(value: Any, wanted: Any) -> Any:
    """A value as a type; numbers may come as whole floats, sequences as lists.

    Raises:
        ValueError: it is none.
    """
    kind = get_origin(wanted) or wanted
    if kind is Any:
        return value
    if kind is tuple and isinstance(value, list | tuple):
        kinds = get_args(wanted)
        each = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
        return tuple(_cast(one, of) for one, of in zip(value, each, strict=True))
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is Mapping and isinstance(value, dict):
        return value
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError


def _undecided(values: Values, unknown: Mapping[str, str]) -> UsageError:
    keys = listed([f'"{name}": ...' for name in unknown], 3)
    words = listed([f"--set {name}=VALUE" for name in unknown], 3)
    return UsageError(
        f"to run {values.family.id}, {listed(list(unknown))} must be known, and nothing says it",
        **dict(list(unknown.items())[:10]),
        hint=f"put the model's config.json beside the weights, or give settings={{{keys}}} "
        f"(on the command line, {words})",
    )
