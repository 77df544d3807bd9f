"""What a user says with `--set` of a checkpoint that is stamped: whether anything else says otherwise."""

from collections.abc import Mapping
from typing import Any

from dovetail.checkpoint import Checkpoint
from dovetail.errors import CheckpointError, UsageError
from dovetail.explain.documents import GIVEN


def check_given(given: Mapping[str, Any], source: Checkpoint, *, overwrite: bool) -> None:
    """Refuses a value that the weights contradict, and one that a document says otherwise.

    `overwrite` lets what is given win over documents.

    Raises:
        CheckpointError: the weights say otherwise.
        UsageError: a document says otherwise.
    """
    for name, value in given.items():
        if name not in source.report.config:  # the kind of a part, which examining holds against the tensors
            continue
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
