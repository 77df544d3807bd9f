"""Known parts at unknown places: what to say about a file that no family explains.

Only parts with a stack of layers are looked for: a projector of two linears fits anywhere. For each, a
prefix is proposed by every group that ends like one of its rows, and kept if the whole part is there.
"""

from collections.abc import Iterable
from typing import NamedTuple

from dovetail.declare.family import Family, Mount
from dovetail.declare.part import Part
from dovetail.explain.match import PartMatch, match_part
from dovetail.explain.name_groups import Inventory
from dovetail.report import counted


class Sighting(NamedTuple):
    """A part that is completely there under a prefix. `alike` are parts that fit the same tensors."""

    part: Part
    prefix: str
    naming: str
    match: PartMatch
    alike: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`siglip at `vpm.` (435 tensors)`."""
        ids = " or ".join(sorted({self.part.id, *self.alike}))
        where = f"under `{self.prefix}`" if self.prefix else "without a prefix"
        return f"{ids} {where} ({counted(self.match.num_claimed, 'tensor')})"


def find_parts(
    inventory: Inventory, families: Iterable[Family], *, within: set[str] | None = None
) -> list[Sighting]:
    """Every known stack that is whole somewhere in the file, the largest first, none overlapping.

    `within` restricts the search to some names.
    """
    if within is not None:
        inventory = inventory.restricted_to(within)
    found: list[Sighting] = []
    for part in _stacked_parts(families):
        for naming in part.namings:
            found += _places(part, naming, inventory)
    found.sort(key=lambda one: -one.match.num_claimed)
    kept: list[Sighting] = []
    taken: set[str] = set()
    for one in found:
        claimed = frozenset(one.match.claimed())
        twin = next((i for i, other in enumerate(kept) if claimed == frozenset(other.match.claimed())), None)
        if twin is not None:
            kept[twin] = kept[twin]._replace(alike=(*kept[twin].alike, one.part.id))
        elif not claimed & taken:
            kept.append(one)
            taken |= claimed
    return kept


def places_of(part: Part, naming: str, inventory: Inventory) -> list[Sighting]:
    """Where one part is whole, whatever the prefix."""
    return _places(part, naming, inventory)


def _stacked_parts(families: Iterable[Family]) -> list[Part]:
    parts: dict[int, Part] = {}
    for family in families:
        for kinds in family.parts.values():
            parts |= {id(part): part for part in kinds if any("{" in leaf for leaf in part.leaves)}
    return list(parts.values())


def _places(part: Part, naming: str, inventory: Inventory) -> list[Sighting]:
    stars = part.stars(naming)
    if not stars:
        return []
    anchor = max(stars, key=len)
    prefixes = [key[: -len(anchor)] for key in inventory.groups if key.endswith(anchor)]
    found = []
    for prefix in prefixes:
        if "*" in prefix or (prefix and prefix[-1] not in "./"):
            continue
        match = match_part(part, Mount(prefix, naming), inventory)
        if match.is_complete:
            found.append(Sighting(part, prefix, naming, match))
    return found
