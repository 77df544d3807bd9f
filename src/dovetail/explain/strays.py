"""Known parts at unknown places: what to say about a file that no family explains.

Only parts with a stack of layers are looked for: a projector of two linears fits anywhere. For each, a
prefix is proposed by every group that ends like one of its rows, and kept if the whole part is there and
nothing else in its layers.
"""

from collections.abc import Iterable
from typing import NamedTuple

from dovetail.declare.family import Family, Mount
from dovetail.declare.part import Part
from dovetail.explain.foreign import inside
from dovetail.explain.match import PartMatch, match_part
from dovetail.explain.name_groups import Inventory
from dovetail.names import star
from dovetail.report import counted


class Sighting(NamedTuple):
    """A part that is completely there under a prefix. `alike` are parts that fit the same tensors.

    `num_others` are tensors under the prefix of a tower that no known part has.
    """

    part: Part
    prefix: str
    naming: str
    match: PartMatch
    alike: tuple[str, ...] = ()
    num_others: int = 0

    @property
    def text(self) -> str:
        """`siglip under `vpm.` (435 tensors)`, or `(435 of 437 tensors there)`."""
        ids = " or ".join(sorted({self.part.id, *self.alike}))
        where = f"under `{self.prefix}`" if self.prefix else "without a prefix"
        size = self.match.num_claimed
        count = f"{size:,} of {size + self.num_others:,} tensors there" if self.num_others else None
        return f"{ids} {where} ({count or counted(size, 'tensor')})"


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
    return [one._replace(num_others=_num_others(one, inventory, taken)) for one in kept]


def _num_others(one: Sighting, inventory: Inventory, taken: set[str]) -> int:
    if one.part.purpose != "tower" or not one.prefix:
        return 0
    under = [
        group.names for key, group in inventory.groups.items() if key.startswith(star(one.prefix + "x")[:-1])
    ]
    return sum(name not in taken for names in under for name in names)


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
        if match.is_complete and not _is_another(match, inventory):
            found.append(Sighting(part, prefix, naming, match))
    return found


def _is_another(match: PartMatch, inventory: Inventory) -> bool:
    """Whether there is more in the layers of a part than the part has."""
    claimed = match.claimed_set()
    left = (key for key, group in inventory.groups.items() if not claimed.issuperset(group.names))
    return any(inside(match.rows, left))
