"""One part held against one place in a file: what of it is there, what is missing.

Names only; shapes are `infer`'s business. A part with an index (`{layer}`) is as long as most of its
rows say: one stray tensor neither makes the stack longer nor hides that another is missing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from dovetail.declare.family import Mount
from dovetail.declare.part import Part, Row
from dovetail.explain.name_groups import Group, Inventory
from dovetail.names import Index, Template, star

TensorsByIndex = Mapping[Index, str]
StackKey = tuple[str, ...]
_MAX_HOLES = 1000
_SINGLE: frozenset[Index] = frozenset([()])


class RowMatch(NamedTuple):
    """One stored tensor of a naming, and the names in the file that are it, by index (`tensors`).

    `text` is its full name at the mount, with fields; `group` the star of a group that it is the whole of.
    """

    row: Row
    text: str
    tensors: TensorsByIndex
    duplicates: tuple[tuple[str, str], ...] = ()
    group: str = ""

    @property
    def stack(self) -> StackKey:
        """Which stack the row belongs to: its fields, with the subset each runs over."""
        stored = self.row.stored
        return tuple(f"{f}:{s}" if s else f for f, s in zip(stored.fields, stored.subsets, strict=True))

    def names(self, indices: Iterable[Index]) -> list[str]:
        """The full names at some indices, in order."""
        filled, fields = Template(self.text).at, self.row.stored.fields
        return [filled(dict(zip(fields, index, strict=True))) for index in sorted(indices)]


class Lack(NamedTuple):
    """A row that is not all there, and the indices at which it should be; none if these are not known."""

    row: RowMatch
    indices: frozenset[Index]

    @property
    def names(self) -> list[str]:
        """The full stored names."""
        return self.row.names(self.indices) or [self.row.text]


class PartMatch(NamedTuple):
    """A part at a mount.

    `lacks` says what should be there and is not; `features` are the optional features that are.
    `stray` are names of the part with an index that the rest of the part does not have.
    `duplicates` pairs a second name with the name it repeats. `alike` are other kinds of part that have
    the same tensors under the same names.
    """

    part: Part
    mount: Mount
    rows: tuple[RowMatch, ...]
    features: tuple[str, ...]
    lacks: tuple[Lack, ...]
    missing_rows: int
    stray: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]
    ignored: tuple[tuple[str, str], ...]
    stacks: Mapping[StackKey, frozenset[Index]]
    alike: tuple[Part, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every required tensor is there."""
        return not self.lacks and bool(self.rows)

    @property
    def missing(self) -> tuple[str, ...]:
        """The full stored names that should be there and are not."""
        return tuple(name for lack in self.lacks for name in lack.names)

    @property
    def num_missing(self) -> int:
        """How many they are; most matches are only counted, to find the best one."""
        return sum(max(1, len(lack.indices)) for lack in self.lacks)

    def claimed(self) -> Iterator[str]:
        """Every name of the file that this part explains."""
        for match in self.rows:
            yield from match.tensors.values()
        for name, _ in self.duplicates:
            yield name
        for name, _ in self.ignored:
            yield name

    def claimed_set(self) -> set[str]:
        """The same as a set, made without a step of Python for each name."""
        names: set[str] = set()
        names.update(*(match.tensors.values() for match in self.rows))
        names.update(name for name, _ in self.duplicates)
        names.update(name for name, _ in self.ignored)
        return names

    @property
    def num_claimed(self) -> int:
        """How many names this part explains."""
        return sum(len(match.tensors) for match in self.rows) + len(self.duplicates) + len(self.ignored)


def match_part(part: Part, mount: Mount, inventory: Inventory) -> PartMatch:
    """Finds the rows of a part at a mount."""
    if not _is_anything_there(part, mount, inventory):
        return PartMatch(part, mount, (), (), (), part.num_required(mount.naming), (), (), (), {})
    matches: list[RowMatch] = []
    absent: list[RowMatch] = []
    aliases = {row.leaves: row for row in part.rows(mount.naming) if row.is_alias}
    for row in part.rows(mount.naming):
        if not row.is_alias:
            match = _find_row(row, aliases.get(row.leaves), mount, inventory)
            (matches if match.tensors else absent).append(match)
    matches, absent = _divided(matches, absent, inventory)
    matches = _without_halves(part, matches, absent)
    features = _features_present(part, matches)
    needed = [match for match in absent if _is_needed(part, match.row, features)]
    stacks = _with_kinds(part, _stacks(matches))
    lacks, stray, gaps = _compare_with_stacks(matches, needed, stacks)
    kept = tuple(one for match in matches if (one := _without_stray(match, stray)).tensors)
    return PartMatch(
        part=part,
        mount=mount,
        rows=kept,
        features=features,
        lacks=tuple(lacks),
        missing_rows=len(needed) + gaps,
        stray=tuple(sorted(stray)),
        duplicates=tuple(pair for match in kept for pair in match.duplicates),
        ignored=tuple(_ignored(part, mount, inventory)),
        stacks=stacks,
    )


def _divided(
    matches: list[RowMatch], absent: list[RowMatch], inventory: Inventory
) -> tuple[list[RowMatch], list[RowMatch]]:
    """The rows, where several kinds of layers have tensors of one name, each with those of its kind.

    Shapes tell them apart, and most rows of a kind tell which layers are of it.
    """
    sharing: dict[str, list[int]] = {}
    for position, match in enumerate(matches):
        if any(match.row.stored.subsets):
            sharing.setdefault(match.row.stored.star, []).append(position)
    shared = [positions for positions in sharing.values() if len(positions) > 1]
    if not shared:
        return matches, absent
    divided = list(matches)
    for positions in shared:
        for position, found in zip(positions, _by_shape(matches, positions, inventory), strict=True):
            divided[position] = matches[position]._replace(tensors=found, group="")
    stacks = _stacks([match for match in divided if match.tensors])
    for positions in shared:
        everything = matches[positions[0]].tensors
        fitting = {
            index: next((p for p in positions if index in stacks.get(matches[p].stack, ())), positions[0])
            for index in everything
        }
        for position in positions:
            found = {index: name for index, name in everything.items() if fitting[index] == position}
            divided[position] = divided[position]._replace(tensors=found)
    return [one for one in divided if one.tensors], [*absent, *(one for one in divided if not one.tensors)]


def _by_shape(matches: list[RowMatch], positions: list[int], inventory: Inventory) -> list[TensorsByIndex]:
    """The tensors of one name by shape, as many shapes as there are rows, the usual shape first."""
    everything = matches[positions[0]].tensors
    shapes = {
        index: entry.shape if (entry := inventory.entries.get(name)) else None
        for index, name in everything.items()
    }
    ranks = {
        shape: rank for rank, (shape, _) in enumerate(Counter(shapes.values()).most_common(len(positions)))
    }
    return [
        {index: name for index, name in everything.items() if ranks.get(shapes[index], 0) == rank}
        for rank in range(len(positions))
    ]


def _is_anything_there(part: Part, mount: Mount, inventory: Inventory) -> bool:
    """A quick no for the many places where a part is not."""
    groups, stars = inventory.groups, part.stars(mount.naming)
    if any(star(name) in groups for _, name in (*mount.moved, *mount.also)):
        return True
    return any(prefix + key in groups for prefix in (mount.prefix, *mount.aliases) for key in stars)


def _find_row(row: Row, alias: Row | None, mount: Mount, inventory: Inventory) -> RowMatch:
    groups = inventory.groups
    found: TensorsByIndex = {}
    duplicates: list[tuple[str, str]] = []
    whole = ""
    spellings = _spellings(row, alias, mount)
    for _, key, stored in spellings:
        group = groups.get(key)
        if group is None:
            continue
        here = _select(stored, group)
        if found:
            duplicates += [(name, found[index]) for index, name in here.items() if index in found]
            found, whole = {**here, **found}, ""
        else:
            found, whole = here, key if len(here) == len(group.names) else ""
    return RowMatch(row, spellings[0][0], found, tuple(duplicates), whole)


def _spellings(row: Row, alias: Row | None, mount: Mount) -> list[tuple[str, str, Template]]:
    """The full names of a row at a mount, the proper one first, each with its star."""
    leaf = row.leaves[0]
    found = []
    moved = dict(mount.moved).get(leaf) if mount.moved else None
    if moved is not None:
        found.append((moved, star(moved), Template(moved)))
    else:
        prefixes = (mount.prefix, *mount.aliases) if mount.aliases else (mount.prefix,)
        for stored in (row.stored,) if alias is None else (row.stored, alias.stored):
            found += [(prefix + stored.text, prefix + stored.star, stored) for prefix in prefixes]
    if mount.also:
        found += [(name, star(name), Template(name)) for also, name in mount.also if also == leaf]
    return found


def _select(stored: Template, group: Group) -> TensorsByIndex:
    """The members of a group that a template describes, by the values of its fields."""
    if all(isinstance(slot, str) for slot in stored.slots):
        return group.by_index
    chosen = ((stored.select(index), name) for index, name in group.by_index.items())
    return {index: name for index, name in chosen if index is not None}


def _without_halves(part: Part, matches: list[RowMatch], absent: list[RowMatch]) -> list[RowMatch]:
    """The rows without those of a feature that a config grants and that lacks a whole row: biases on
    q, k and v alone are Qwen2's, and no Llama's that lost the fourth in every layer."""
    flags = part.facts.flags
    halves = {part.leaves[match.row.leaves[0]].feature for match in absent} & flags.keys()
    return [match for match in matches if part.leaves[match.row.leaves[0]].feature not in halves]


def _features_present(part: Part, matches: list[RowMatch]) -> tuple[str, ...]:
    present = {part.leaves[leaf].feature for match in matches for leaf in match.row.leaves}
    return tuple(feature for feature in part.optional if feature in present)


def _is_needed(part: Part, row: Row, features: tuple[str, ...]) -> bool:
    leaf = part.leaves[row.leaves[0]]
    return not leaf.is_dead and (
        leaf.feature is None or leaf.feature in part.features or leaf.feature in features
    )


def _stacks(matches: list[RowMatch]) -> dict[StackKey, frozenset[Index]]:
    """The index set of each stack, by majority of its rows."""
    votes: dict[StackKey, list[tuple[TensorsByIndex, int]]] = {}
    for match in matches:
        if match.row.stored.fields:
            ballots = votes.setdefault(match.stack, [])
            same = next((i for i, (found, _) in enumerate(ballots) if _is_same(found, match.tensors)), None)
            if same is None:
                ballots.append((match.tensors, 1))
            else:
                ballots[same] = (match.tensors, ballots[same][1] + 1)
    elected = {key: max(ballots, key=lambda one: (one[1], len(one[0])))[0] for key, ballots in votes.items()}
    return {key: _without_holes(key, frozenset(found)) for key, found in elected.items()}


def _with_kinds(part: Part, stacks: dict[StackKey, frozenset[Index]]) -> dict[StackKey, frozenset[Index]]:
    """The same, with the layers of every kind among all layers."""
    for rule in part.facts.layer_kinds:
        if (rule.over,) in stacks:
            kinds = [stacks.get((f"{rule.over}:{kind}",), frozenset()) for kind in rule.words]
            stacks[(rule.over,)] = stacks[(rule.over,)].union(*kinds)
    return stacks


def _is_same(one: TensorsByIndex, other: TensorsByIndex) -> bool:
    """Whether two rows have the same indices. In the same order, which is usual, is quickly seen."""
    return list(one) == list(other) or one.keys() == other.keys()


def _without_holes(key: StackKey, indices: frozenset[Index]) -> frozenset[Index]:
    """A plain stack counts from 0: a layer that no row has is missing, not absent by design.

    A file with a layer 999,999,999 lacks nearly a billion; the first thousand of them are enough to say so.
    What most layers have of an inner index (all 128 experts), the others lack.
    """
    if any(":" in field for field in key):
        return indices
    if len(key) > 1:
        return _filled(indices)
    size = max(indices)[0] + 1
    if len(indices) == size:
        return indices
    return indices.union((i,) for i in range(min(size, len(indices) + _MAX_HOLES)))


def _filled(indices: frozenset[Index]) -> frozenset[Index]:
    """Indices of two or more fields, with what more than half of the outer ones have filled in for all."""
    inner: dict[Index, set[int]] = {}
    for index in indices:
        inner.setdefault(index[:-1], set()).add(index[-1])
    usual, count = Counter(map(frozenset, inner.values())).most_common(1)[0]
    if count == len(inner) or 2 * count <= len(inner):
        return indices
    return indices.union((*outer, each) for outer in inner for each in usual)


def _compare_with_stacks(
    matches: list[RowMatch], needed: list[RowMatch], stacks: Mapping[StackKey, frozenset[Index]]
) -> tuple[list[Lack], set[str], int]:
    """What rows lack, what they have that the rest of their stack has not, and how many rows differ."""
    lacks: list[Lack] = []
    stray: set[str] = set()
    gaps = 0
    for match in matches:
        stack = stacks.get(match.stack, _SINGLE)
        if len(match.tensors) != len(stack) or not stack.issuperset(match.tensors):
            gaps += 1
            if lost := stack - match.tensors.keys():
                lacks.append(Lack(match, lost))
            stray |= {name for index, name in match.tensors.items() if index not in stack}
    for match in needed:
        stack = stacks.get(match.stack, _SINGLE if not match.stack else frozenset())
        lacks.append(Lack(match, stack))
    return lacks, stray, gaps


def _without_stray(match: RowMatch, stray: set[str]) -> RowMatch:
    if not stray or not any(name in stray for name in match.tensors.values()):
        return match
    found = {index: name for index, name in match.tensors.items() if name not in stray}
    return RowMatch(match.row, match.text, found, match.duplicates)


def _ignored(part: Part, mount: Mount, inventory: Inventory) -> Iterator[tuple[str, str]]:
    for rule in part.namings[mount.naming].ignored:
        for prefix in (mount.prefix, *mount.aliases):
            group = inventory.groups.get(prefix + rule.stored.star)
            if group is not None:
                yield from ((name, rule.reason) for name in _select(rule.stored, group).values())
