"""What donors say of a new model that has no config of its own: its sizes, and what their configs say."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dovetail.checkpoint import Checkpoint
from dovetail.declare.family import Family
from dovetail.declare.part import Part

# family -> why its tower is one block shorter than the tower it is made from
_SHORT_TOWERS = {"llava_onevision": "LLaVA-NeXT siglip_encoder.py leaves the last block of a tower out"}


class Donor(NamedTuple):
    """A part that a donor has: what it is called there, and its kind."""

    checkpoint: Checkpoint
    role: str
    kind: Part


def donor_of(one: Family, role: str, donors: Sequence[Checkpoint]) -> Donor | None:
    """The first donor with a part that may fill a role, best in the same role."""
    ids = {part.id for part in one.parts[role]}
    for donor in donors:
        for theirs, kind in sorted(donor.kinds.items(), key=lambda item: item[0] != role):
            if kind.id in ids:
                return Donor(donor, theirs, kind)
    return None


def sizes_of_donors(one: Family, donors: Sequence[Checkpoint]) -> dict[str, dict[str, int]]:
    """The sizes of the parts that donors have, by the role that they would fill."""
    sizes: dict[str, dict[str, int]] = {}
    for role in one.parts:
        if (found := donor_of(one, role, donors)) is not None:
            known = found.checkpoint.sizes(found.role)
            sizes[role] = {dim: known[dim] for dim in known}
    return sizes


def said_by_donors(one: Family, donors: Sequence[Checkpoint]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Kinds, settings and shortened towers of a new model without a config, and what to say of them.

    What a donor's config does not say stays the family's convention. A head that a donor stores by itself
    is a head of the new model.
    """
    said: dict[str, Any] = {}
    notes: list[str] = []
    for role, parts in one.parts.items():
        found = donor_of(one, role, donors)
        if found is None:
            continue
        config, theirs = found.checkpoint.report.config, found.role
        if len(parts) > 1 or role in one.ties:
            said[role] = found.kind.id
        for setting in found.kind.facts.settings:
            value = config.get(f"{theirs}.{setting.name}")
            if value is not None and value.source in ("config", "stamp") and value.value is not None:
                said[f"{role}.{setting.name}"] = value.value
        is_whole_tower = found.kind.purpose == "tower" and found.checkpoint.family.id != one.id
        if one.id in _SHORT_TOWERS and is_whole_tower and f"{theirs}.layers" in config:
            layers = config[f"{theirs}.layers"].value
            said[f"{role}.layers"] = layers - 1
            why = _SHORT_TOWERS[one.id]
            notes.append(
                f"{role}.layers = {layers - 1} of {layers} ({why}; --set {role}.layers=N is another)"
            )
    return said, tuple(notes)
