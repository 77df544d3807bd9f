"""The names of a file, grouped by star, with wrappers taken off.

Everything after grouping costs by the number of groups, not by the number of tensors. Wrappers are
what training tools put around a model's names: they are taken off the stars and reported.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dovetail.names import WRITTEN_STAR, Index, group_names, indices, star
from dovetail.store.store import Entry

# Wrappers around a whole model, outermost first: nested checkpoint levels (`/`), then module prefixes.
# `state_dict/`: Lightning; `module.`: DDP; `_forward_module.`: Fabric; `module/`: DeepSpeed.
_LEVELS = ("state_dict/", "model_state_dict/", "model/", "module/", "weights/")
_LEADING = ("module.", "_forward_module.", "_orig_mod.", "_fsdp_wrapped_module.")
# Segments that torch.compile, FSDP, activation checkpointing and PEFT put anywhere in a name.
_INNER = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_model.model.",
    "base_layer.",
    "original_module.",
)
# Levels of a training checkpoint that are not weights.
TRAINING_STATE = (
    "optimizer",
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "callbacks",
    "scheduler",
    "rng_state",
)
# A moving average of the weights is called so: `ema`, `model_ema`, `ema_state_dict`.
_EMA = re.compile(r"(\w+_)?ema(_\w+)?")
SECOND_SET = "a second set of weights"


class Group:
    """The tensors that share a star."""

    __slots__ = ("_by_index", "_indices", "names", "star")

    def __init__(self, star: str, names: list[str], indices: list[Index] | None = None) -> None:
        self.star = star
        self.names = names
        self._indices = indices
        self._by_index: dict[Index, str] | None = None

    @property
    def indices(self) -> list[Index]:
        """The index of each name, in the order of `names`."""
        if self._indices is None:
            self._indices = indices(star(self.names[0]), self.names)
        return self._indices

    @property
    def by_index(self) -> dict[Index, str]:
        """The names by index."""
        if self._by_index is None:
            self._by_index = dict(zip(self.indices, self.names, strict=True))
        return self._by_index


class Inventory(NamedTuple):
    """All groups of a file by star, the wrappers that were taken off, and what was set aside.

    `set_aside` maps a rule to the names it explains: tensors that are not weights of the model. `entries`
    is what the file says of each name, for the few questions that names alone do not answer.
    """

    groups: dict[str, Group]
    wrappers: tuple[str, ...] = ()
    set_aside: Mapping[str, list[str]] = {}
    entries: Mapping[str, Entry] = {}

    @property
    def size(self) -> int:
        """How many tensors the groups hold."""
        return sum(len(group.names) for group in self.groups.values())

    def names(self) -> Iterable[str]:
        """The names in the groups, as the file spells them."""
        for group in self.groups.values():
            yield from group.names

    def restricted_to(self, names: set[str]) -> "Inventory":
        """The same groups with only these names in them."""
        kept = {}
        for key, group in self.groups.items():
            if names.issuperset(group.names):
                kept[key] = group
            elif not names.isdisjoint(group.names):
                pairs = zip(group.names, group.indices, strict=True)
                inside = [(name, index) for name, index in pairs if name in names]
                kept[key] = Group(group.star, *map(list, zip(*inside, strict=True)))
        return self._replace(groups=kept)

    def without(self, wrapper: str) -> "Inventory | None":
        """The inventory with one more leading wrapper taken off, None unless every name has it."""
        if not self.groups or not all(key.startswith(wrapper) for key in self.groups):
            return None
        groups = {key[len(wrapper) :]: group for key, group in self.groups.items()}
        return self._replace(groups=groups, wrappers=(*self.wrappers, wrapper))


def take_inventory(names: Iterable[str]) -> Inventory:
    """Groups the names and takes off every wrapper that is one beyond doubt."""
    groups = {key: Group(key, members) for key, members in group_names(names).items()}
    entries = names if isinstance(names, Mapping) else {}
    inventory = _choose_level(Inventory(groups, entries=entries))
    changed = True
    while changed:
        changed = False
        for wrapper in _LEADING:
            if unwrapped := inventory.without(wrapper):
                inventory, changed = unwrapped, True
    return _without_inner(_without_average(inventory))


def _without_average(inventory: Inventory) -> Inventory:
    """Sets a module aside that is a moving average of all others, or of one beside it."""
    modules: dict[str, set[str]] = {}
    for key in inventory.groups:
        first, _, rest = key.partition(".")
        modules.setdefault(first, set()).add(rest)
    for first in [one for one in modules if _EMA.fullmatch(one)]:
        others = {key: group for key, group in inventory.groups.items() if key.partition(".")[0] != first}
        beside = [modules[one] for one in modules if one != first]
        if modules[first] == set(others) or modules[first] in beside:
            names = [
                name for key, group in inventory.groups.items() if key not in others for name in group.names
            ]
            aside = {**inventory.set_aside, f"{SECOND_SET} `{first}`": names}
            inventory = inventory._replace(groups=others, set_aside=aside)
    return inventory


def _is_beside(level: str) -> bool:
    """Whether a level of a training checkpoint may stand beside the weights."""
    return level in TRAINING_STATE or _EMA.fullmatch(level) is not None


def _choose_level(inventory: Inventory) -> Inventory:
    """Picks the weights out of a nested training checkpoint: not their average, if both are there."""
    keys = [key for key in inventory.groups if "/" in key]
    if not keys:
        return inventory
    averages = dict.fromkeys(f"{key.split('/')[0]}/" for key in keys if _EMA.fullmatch(key.split("/")[0]))
    for level in (*_LEVELS, *averages):
        inside = {key: group for key, group in inventory.groups.items() if key.startswith(level)}
        if not inside:
            continue
        outside = {key: group for key, group in inventory.groups.items() if key not in inside}
        if not all(_is_beside(key.split("/")[0]) for key in outside):
            continue
        aside = dict(inventory.set_aside)
        for key, group in outside.items():
            first = key.split("/")[0]
            kind = SECOND_SET if _EMA.fullmatch(first) else "training state"
            aside.setdefault(f"{kind} `{first}`", []).extend(group.names)
        groups = {key[len(level) :]: group for key, group in inside.items()}
        wrappers = (*inventory.wrappers, level)
        return _choose_level(inventory._replace(groups=groups, wrappers=wrappers, set_aside=aside))
    return inventory


def _without_inner(inventory: Inventory) -> Inventory:
    wrappers = list(inventory.wrappers)
    groups = inventory.groups
    for segment in _INNER:
        if not any(_has_segment(key, segment) for key in groups):
            continue
        renamed: dict[str, Group] = {}
        for key, group in groups.items():
            bare = _drop_segment(key, segment)
            renamed[bare] = joined(renamed[bare], group) if bare in renamed else group
        groups = renamed
        wrappers.append(segment)
    return inventory._replace(groups=groups, wrappers=tuple(wrappers))


def joined(one: Group, other: Group) -> Group:
    """Two groups whose stars have become one: some layers were wrapped and some were not."""
    return Group(one.star, one.names + other.names, one.indices + other.indices)


def _has_segment(key: str, segment: str) -> bool:
    return key.startswith(segment) or f".{segment}" in key or f"/{segment}" in key


def _drop_segment(key: str, segment: str) -> str:
    key = key.removeprefix(segment)
    return key.replace(f".{segment}", ".").replace(f"/{segment}", "/")


class Module(NamedTuple):
    """Tensors under one prefix."""

    prefix: str
    size: int
    first: str


def top_modules(groups: Mapping[str, Group]) -> list[Module]:
    """The modules that hold these groups, biggest first.

    A module is the longest common beginning of its names, so that 391 tensors under `model.visual` are
    one entry; one that holds nearly everything is opened once.
    """
    modules = _split(list(groups.values()), 0)
    total = sum(len(group.names) for group in groups.values())
    if modules and len(modules) < 3:
        largest = max(modules, key=_count)
        if len(largest) > 1 and _count(largest) * 10 > total * 8:
            modules.remove(largest)
            modules += _split(largest, _common_module(largest).count(".") + 1)
    found = [Module(_common_module(members), _count(members), members[0].names[0]) for members in modules]
    return sorted(found, key=lambda module: -module.size)


def _split(members: list[Group], depth: int) -> list[list[Group]]:
    parts: dict[str, list[Group]] = {}
    for group in members:
        segments = group.star.replace("/", ".").split(".")
        parts.setdefault(segments[min(depth, len(segments) - 1)], []).append(group)
    return list(parts.values())


def _count(members: list[Group]) -> int:
    return sum(len(group.names) for group in members)


def _common_module(members: list[Group]) -> str:
    pieces = [group.star.replace("/", ".").split(".") for group in members]
    if len(pieces) == 1:
        pieces = [pieces[0][:-1] or pieces[0]]
    common = []
    for column in zip(*pieces, strict=False):
        if len(set(column)) > 1 or column[0] == "*":
            break
        common.append(column[0])
    return ".".join(common).replace(WRITTEN_STAR, "*")
