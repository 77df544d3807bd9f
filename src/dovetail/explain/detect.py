"""Which family a file is, in which layout, and how sure that is.

Every layout of every family is held against the file. Its cost is the number of templates it misses
plus the number it leaves unexplained; the cheapest explanation is the closest, and it becomes a claim
only if no required tensor is missing. Names of files and folders play no part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from dovetail.declare.family import Family, Layout, Mount
from dovetail.declare.part import Part
from dovetail.explain.foreign import inside
from dovetail.explain.match import PartMatch, match_part
from dovetail.explain.name_groups import Inventory
from dovetail.explain.named import NOTHING_SAID, Named
from dovetail.explain.strays import Sighting, places_of

# Lightning calls the wrapped network `model`; so does Hugging Face. Taken off only if that explains more.
_MAYBE_WRAPPER = "model."

# How many of the closest explanations are looked at once more when none is whole.
_CLOSE = 8

_Match = Callable[[Part, Mount], PartMatch]


class Explanation(NamedTuple):
    """One family held against a file.

    `roles` maps each role that is there to its match, `layouts` each role to the ids of the layouts
    that put it there. `absent` are roles without any tensor, with how many leaves they would have: the same
    in every layout, so that what is not there does not speak for one.
    """

    family: Family
    roles: Mapping[str, PartMatch]
    layouts: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, int]
    num_unexplained: int
    unexplained_stars: int
    inventory: Inventory

    @property
    def unexplained(self) -> tuple[str, ...]:
        """The names that no role claims, in file order of their groups."""
        if not self.num_unexplained:
            return ()
        claimed = _claimed(self.roles)
        return tuple(name for name in self.inventory.names() if name not in claimed)

    @property
    def cost(self) -> tuple[int, int]:
        """Templates missed or unexplained, then tensors. A part that is not there at all is one mistake."""
        rows = sum(match.missing_rows for match in self.roles.values()) + len(self.absent)
        tensors = sum(match.num_missing for match in self.roles.values())
        return rows + self.unexplained_stars, tensors + self.num_unexplained

    @property
    def is_whole(self) -> bool:
        """Whether every required tensor is there."""
        return bool(self.roles) and not self.absent and not any(match.lacks for match in self.roles.values())

    @property
    def layout(self) -> str | dict[str, str] | None:
        """One layout id if all parts agree on one, else one per part."""
        common = self.common_layouts
        if common:
            return common[0]
        return {role: ids[0] for role, ids in self.layouts.items()} or None

    @property
    def common_layouts(self) -> tuple[str, ...]:
        """The layouts that every part is in. More than one cannot be told apart on this file."""
        sets = list(self.layouts.values())
        return tuple(id for id in sets[0] if all(id in ids for ids in sets)) if sets else ()

    @property
    def num_missing(self) -> int:
        """How many required tensors are not there; of a part that is not there at all, at least so many."""
        return sum(match.num_missing for match in self.roles.values()) + sum(self.absent.values())

    @property
    def num_claimed(self) -> int:
        """How many tensors the parts claim."""
        return sum(match.num_claimed for match in self.roles.values())

    @property
    def foreign_inside(self) -> tuple[str, ...]:
        """The groups of names that nothing explains and that lie in layers or modules of the parts."""
        rows = [row for match in self.roles.values() for row in match.rows]
        rows += [lack.row for match in self.roles.values() for lack in match.lacks]
        return tuple(inside(rows, self._unexplained_groups()))

    @property
    def foreign_beside(self) -> tuple[str, ...]:
        """The groups of names that nothing explains and that lie in modules of their own."""
        inner = set(self.foreign_inside)
        return tuple(key for key in self._unexplained_groups() if key not in inner)

    def _unexplained_groups(self) -> list[str]:
        if not self.num_unexplained:
            return []
        claimed = _claimed(self.roles)
        return [key for key, group in self.inventory.groups.items() if not claimed.issuperset(group.names)]


class Detection(NamedTuple):
    """What a file is (`claim`), and what comes closest where nothing fits.

    A claim is of a family that is all there, or of one that is named beside the weights and of which nearly
    all is there. `rivals` are other families that explain the file equally well.
    """

    claim: Explanation | None
    closest: Explanation | None
    rivals: tuple[Explanation, ...]
    inventory: Inventory


def detect(
    inventory: Inventory,
    families: Iterable[Family],
    *,
    named: Named = NOTHING_SAID,
    is_preferred: Callable[[Family], bool] = lambda family: False,
) -> Detection:
    """Finds the family and layout of a file.

    `named` is how the model is called beside the weights. Of families that explain a file equally well, one
    that `is_preferred` comes first, then one that is named.

    A family of several parts that explains every tensor ends the search: no two such families write the
    same names (`lookalikes.same_families`, checked for all of them by the tests).
    """
    unwrapped = without_wrapper(inventory)
    candidates: list[Explanation] = []
    for family in families:
        here = explain(inventory, family)
        candidates.append(here)
        if here.cost == (0, 0) and not family.is_component:
            break
        if unwrapped:
            candidates.append(explain(unwrapped, family))
    ranked = sorted((one for one in candidates if one.roles), key=lambda one: one.cost)
    if not ranked:
        return Detection(None, None, (), inventory)
    called = [one for one in ranked if named.is_of(one.family)]
    if not ranked[0].is_whole:
        ranked = sorted(ranked[:_CLOSE], key=_cost_with_moves)
    best = [one for one in ranked if one.cost == ranked[0].cost]
    chosen = [one for one in best if is_preferred(one.family)]
    chosen = chosen or [one for one in best if named.is_of(one.family)]
    closest = (chosen or best)[0]
    others = {} if chosen else {one.family.id: one for one in reversed(best)}
    rivals = tuple(
        one for one in best if one is others.get(one.family.id) and one.family is not closest.family
    )
    if not rivals and _is_shown(closest, named):
        return Detection(closest, closest, (), closest.inventory)
    if called and is_it(said := min(called, key=_cost_with_moves)):
        return Detection(said, said, (), said.inventory)
    if called and said.is_whole:
        closest, rivals = said, ()
    return Detection(None, closest, rivals, closest.inventory)


def _is_shown(one: Explanation, named: Named) -> bool:
    """Whether the tensors alone show the family: all of it, with nothing of another one inside.

    A component is part of many models, and models of other names have its tensors: it is shown by a file
    that holds nothing else, and not against a config that calls it something else.
    """
    if not one.is_whole:
        return False
    if not one.num_unexplained and not one.family.is_component:
        return True
    if named.is_against(one.family):
        return False
    is_alone = not one.family.is_component or not one.foreign_beside
    return is_alone and (named.is_of(one.family) or not one.foreign_inside)


def is_it(one: Explanation) -> bool:
    """Whether a family that is named beside the weights is what they are, damaged or not.

    So it is where nothing is foreign, however much is missing. Something foreign (a name off by a letter, a
    bias too many) is damage as long as nearly everything else is there.
    """
    foreign = unexplained(one)
    missing = sum(match.num_missing for match in one.roles.values())
    if one.family.is_component and one.foreign_beside and len(foreign) > missing:
        return False  # more than a name that is off: a larger model
    moved = sum(place.match.num_claimed for place in whole_elsewhere(one).values())
    return not foreign or (missing + len(foreign)) * 2 <= one.num_claimed + moved


def without_wrapper(inventory: Inventory) -> Inventory | None:
    """The names without the wrapper that may be one, None if not all have it."""
    return inventory.without(_MAYBE_WRAPPER)


def _cost_with_moves(one: Explanation) -> tuple[int, int]:
    """The cost if a part that is whole under an unknown prefix counts as one mistake, not as a lost part."""
    rows, tensors = one.cost
    for place in whole_elsewhere(one).values():
        rows -= len({row.text for row in place.match.rows})
        tensors -= place.match.num_claimed
    return rows, tensors


def unexplained(one: Explanation) -> list[str]:
    """The names that nothing explains and that are of no part under an unknown prefix."""
    moved = {name for place in whole_elsewhere(one).values() for name in place.match.claimed()}
    return [name for name in one.unexplained if name not in moved]


def whole_elsewhere(one: Explanation) -> dict[str, Sighting]:
    """For each role that is not in its place: where all of its part is, if it is anywhere."""
    left = set(one.unexplained) if one.absent else set()
    found = {}
    for role in one.absent if left else ():
        for place in _elsewhere(one, role):
            if left.issuperset(place.match.claimed()):
                found[role] = place
                break
    return found


def _elsewhere(one: Explanation, role: str) -> Iterator[Sighting]:
    for part in one.family.parts[role]:
        if "{" in part.table:
            for naming in part.namings:
                yield from places_of(part, naming, one.inventory)


def explain(inventory: Inventory, family: Family, only: Layout | None = None) -> Explanation:
    """The best that a family can do with a file: one layout, or the best mount for each part."""
    matches: dict[tuple[int, Mount], PartMatch] = {}

    def match(part: Part, mount: Mount) -> PartMatch:
        key = (id(part), mount)
        if key not in matches:
            matches[key] = match_part(part, mount, inventory)
        return matches[key]

    layouts = (only,) if only else family.layouts
    whole = min((_in_layout(family, one, inventory, match) for one in layouts), key=lambda one: one.cost)
    if whole.cost[0] == 0 or only:
        return _with_all_layouts(whole)
    mixed = _mixed(family, layouts, inventory, match)
    return _with_all_layouts(mixed if mixed.cost < whole.cost else whole)


def _in_layout(family: Family, one: Layout, inventory: Inventory, match: _Match) -> Explanation:
    chosen = {role: _best(family.parts[role], mounts, match) for role, mounts in one.mounts.items()}
    chosen = _drop_overlaps(chosen)
    return _explanation(family, chosen, dict.fromkeys(chosen, (one.id,)), one.optional, inventory)


def _mixed(family: Family, layouts: Iterable[Layout], inventory: Inventory, match: _Match) -> Explanation:
    """Each part where it fits best, whatever the layouts of the others."""
    chosen: dict[str, PartMatch] = {}
    ids: dict[str, tuple[str, ...]] = {}
    full = max(layouts, key=lambda one: len(one.mounts))
    for role in full.mounts:
        mounts = {one.id: one.mounts[role] for one in layouts if role in one.mounts}
        found = {id: _best(family.parts[role], places, match) for id, places in mounts.items()}
        best = max(found.values(), key=_rank)
        chosen[role] = best
        ids[role] = tuple(
            id for id, one in found.items() if one.mount == best.mount and one.part is best.part
        )
    present = [ids[role] for role, match in chosen.items() if match.rows]
    shared = [one for one in layouts if all(one.id in found for found in present)]
    optional = tuple(role for one in shared for role in one.optional)
    return _explanation(family, _drop_overlaps(chosen), ids, optional, inventory)


def _best(kinds: tuple[Part, ...], mounts: tuple[Mount, ...], match: _Match) -> PartMatch:
    """The kind and place that explain most with the fewest gaps."""
    found = [match(part, mount) for mount in mounts for part in kinds if mount.naming in part.namings]
    best = max(found, key=_rank)
    alike = tuple(one.part for one in found if one is not best and _rank(one) == _rank(best))
    return best._replace(alike=alike) if alike and best.rows else best


def _rank(match: PartMatch) -> tuple[int, int, int]:
    """What it explains less what it misses: a damaged Qwen3 is not a whole Llama with norms too many."""
    return match.num_claimed - match.num_missing, match.num_claimed, -match.missing_rows


def _drop_overlaps(chosen: dict[str, PartMatch]) -> dict[str, PartMatch]:
    """Two roles must not claim one tensor: an optional part that repeats another's names is not there."""
    if sum(bool(match.rows) for match in chosen.values()) < 2 or _whole_groups(chosen.values()) is not None:
        return chosen
    seen: set[str] = set()
    kept = {}
    for role, match in chosen.items():
        claimed = match.claimed_set()
        if not match.rows or claimed - seen:
            kept[role] = match
        seen |= claimed
    return kept


def _explanation(
    family: Family,
    chosen: dict[str, PartMatch],
    ids: dict[str, tuple[str, ...]],
    optional: tuple[str, ...],
    inventory: Inventory,
) -> Explanation:
    may_be_absent = {*family.optional, *optional}
    present = {role: match for role, match in chosen.items() if match.rows}
    absent = {
        role: match.part.num_required_leaves
        for role, match in chosen.items()
        if not match.rows and role not in may_be_absent
    }
    for role in [role for role, match in present.items() if role in may_be_absent and _is_stray(match)]:
        del present[role]
    layouts = {role: ids[role] for role in present}
    left, stars = unclaimed(present, inventory)
    return Explanation(family, present, layouts, absent, left, stars, inventory)


def unclaimed(roles: Mapping[str, PartMatch], inventory: Inventory) -> tuple[int, int]:
    """How many tensors no role claims, and how many groups hold one."""
    groups = inventory.groups
    whole = _whole_groups(roles.values())
    if whole is not None:
        return inventory.size - sum(len(groups[key].names) for key in whole), len(groups) - len(whole)
    claimed = _claimed(roles)
    stars = sum(not claimed.issuperset(group.names) for group in groups.values())
    return inventory.size - len(claimed), stars


def _whole_groups(matches: Iterable[PartMatch]) -> set[str] | None:
    """The groups that parts claim, None unless every row of them is one group and no two are the same.

    Nearly all rows of nearly all files are; then nothing need be said of each name.
    """
    rows = [row for match in matches for row in match.rows]
    keys = {row.group for row in rows}
    is_plain = len(keys) == len(rows) and "" not in keys
    return keys if is_plain and not any(match.duplicates or match.ignored for match in matches) else None


def _claimed(roles: Mapping[str, PartMatch]) -> set[str]:
    return set().union(*(match.claimed_set() for match in roles.values()))


def _is_stray(match: PartMatch) -> bool:
    """An optional part of which less than half is there is a coincidence of names."""
    return match.num_missing > match.num_claimed


def _with_all_layouts(one: Explanation) -> Explanation:
    """Adds the other layouts that put each part in the same place."""
    layouts = {}
    for role, match in one.roles.items():
        same = [
            other.id
            for other in one.family.layouts
            if match.mount in other.mounts.get(role, ()) and match.mount.naming in match.part.namings
        ]
        first = one.layouts[role]
        layouts[role] = tuple(dict.fromkeys([*first, *same]))
    common = [id for id in next(iter(layouts.values()), ()) if all(id in ids for ids in layouts.values())]
    complete = [id for id in common if set(one.roles) <= set(one.family.layout(id).mounts)]
    if complete:
        layouts = {role: tuple(complete) for role in layouts}
    return one._replace(layouts=layouts)


def _modules(match: PartMatch) -> Iterable[str]:
    for row in match.rows:
        if row.row.stored.fields:
            for name in row.tensors.values():
                yield _parent(name)
                yield _grandparent(name)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _grandparent(name: str) -> str:
    return _parent(_parent(name))
