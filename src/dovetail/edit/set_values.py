"""What a user says with `--set`: which value is meant, and whether anything else says otherwise."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from dovetail.checkpoint import Checkpoint
from dovetail.errors import CheckpointError, UsageError, listed
from dovetail.explain.documents import GIVEN
from dovetail.report import Value

_WORDS = ("yes", "no", "on", "off", "y", "n", "TRUE", "FALSE")


def resolved(given: Mapping[str, Any], config: Mapping[str, Value]) -> dict[str, Any]:
    """The same by full names: `norm_first` is `resampler.norm_first` where only one part has it.

    Raises:
        UsageError: there is no such value, or several parts have one, or it is no value of its kind.
    """
    full = {}
    for name, value in given.items():
        found = _full_name(name, config)
        if isinstance(value, str) and value in _WORDS:
            raise UsageError(f"`{value}` is no value of {found}", hint="write true or false")
        default = config[found].value if config[found].source == "default" else None
        if isinstance(default, bool | int | float) and not _is_alike(value, default):
            raise UsageError(
                f"{found} cannot be {value!r}", hint=f"a value of its kind is {str(default).lower()}"
            )
        full[found] = value
    return full


def _full_name(name: str, config: Mapping[str, Value]) -> str:
    if name in config:
        return name
    same = [full for full in config if full.endswith(f".{name}")]
    if len(same) == 1:
        return same[0]
    if same:
        raise UsageError(f"several parts have a {name}", hint=f"say which: {listed(same, 6)}")
    near = get_close_matches(name, [*config, *(full.rpartition(".")[2] for full in config)], 1)
    still_open = [full for full, value in config.items() if value.source in ("default", "undetermined")]
    raise UsageError(
        f"this model has no value `{name}`" + (f"; did you mean {near[0]}?" if near else ""),
        hint=f"what no file says yet: {listed(still_open, 8)}",
    )


def _is_alike(value: Any, default: float) -> bool:
    """Whether a value can stand where this default stands."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_given(given: Mapping[str, Any], source: Checkpoint, *, overwrite: bool) -> None:
    """Refuses a value that the weights contradict, and one that a document says otherwise.

    `overwrite` lets what is given win over documents.

    Raises:
        CheckpointError: the weights say otherwise.
        UsageError: a document says otherwise.
    """
    for name, value in given.items():
        known = source.report.config[name]
        if known.value == value or _means_the_same(name, value, source):
            continue
        if known.source == "weights":
            raise CheckpointError(
                f"{name} is {known.value} in the weights ({known.evidence}) and {value} in {GIVEN}: {name}",
                checkpoint=source.report.path,
                hint=f"leave the {GIVEN} out: what the weights show needs no saying",
            )
        if known.source in ("config", "stamp") and not overwrite:
            raise UsageError(
                f"{name} is {known.value} in {known.evidence} and {value} in {GIVEN}: {name}",
                hint="find out which is right; --overwrite lets --set win",
            )


def _means_the_same(name: str, value: Any, source: Checkpoint) -> bool:
    """Whether a value that follows from sizes, such as `expand`, gives the same sizes."""
    role, _, plain = name.partition(".")
    match = source.explanation.roles.get(role)
    for rule in match.part.facts.derived if match else ():
        if rule.name == plain:
            sizes = source.sizes(role)
            return rule.agrees(value, {dim: sizes[dim] for dim in rule.needs})
    return False
