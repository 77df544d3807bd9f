"""Shards that an index names and that are not here: what they hold by the index, and the model without them.

By its names the model is known all the same, so that one lost shard is one cause: which it is, what it holds.
"""

from collections.abc import Collection, Mapping

from dovetail.errors import listed
from dovetail.explain.detect import Explanation, unclaimed
from dovetail.explain.match import Lack, PartMatch, RowMatch
from dovetail.report import Finding, counted
from dovetail.store.store import AbsentShards, Entry, Store


def promised_entries(store: Store) -> Mapping[str, Entry]:
    """The tensors that are here, and the names of those that the index says are elsewhere."""
    if store.absent is None or store.absent.is_all:
        return store.entries
    promised = dict.fromkeys(store.absent.names, Entry("", None, -1, -1, -1))
    return {**promised, **store.entries}


def with_what_is_here(one: Explanation, store: Store) -> Explanation:
    """An explanation of all names that an index has, without the tensors of the shards that are not here."""
    if store.absent is None or store.absent.is_all:
        return one
    gone = set(store.absent.names) - store.entries.keys()
    if not gone:
        return one
    roles = {role: _without(match, gone) for role, match in one.roles.items()}
    inventory = one.inventory.restricted_to(set(one.inventory.names()) - gone)
    left, stars = unclaimed(roles, inventory)
    return one._replace(roles=roles, num_unexplained=left, unexplained_stars=stars, inventory=inventory)


def _without(match: PartMatch, gone: Collection[str]) -> PartMatch:
    rows: list[RowMatch] = []
    lacks = list(match.lacks)
    for row in match.rows:
        lost = frozenset(index for index, name in row.tensors.items() if name in gone)
        here = {index: name for index, name in row.tensors.items() if index not in lost}
        kept = row._replace(tensors=here, group="") if lost else row
        if lost:
            lacks.append(Lack(kept, lost))
        if here:
            rows.append(kept)
    stacks = {row.stack for row in rows}
    return match._replace(
        rows=tuple(rows),
        lacks=tuple(lacks),
        duplicates=tuple(pair for pair in match.duplicates if pair[0] not in gone),
        ignored=tuple(pair for pair in match.ignored if pair[0] not in gone),
        stacks={key: indices for key, indices in match.stacks.items() if key in stacks},
    )


def shard_finding(absent: AbsentShards, one: Explanation | None, *, is_claim: bool) -> Finding:
    """Which shards are not here and what they hold, in the parts of the family if one is claimed."""
    shards = list(absent.tensors)
    if absent.is_all:
        is_complete = is_claim and one is not None and one.is_whole and not one.num_unexplained
        none = f"none of the {absent.total:,} shards of {absent.index_file} is here"
        what = f"{shards[0]} is not here" if absent.total == 1 else none
        said = f"complete by name; {what}" if is_complete else f"only names were checked: {what}"
    elif len(shards) == 1:
        held = _held(absent, one if is_claim else None)
        said = f"{shards[0]} is not here; by {absent.index_file} it holds {held}"
    else:
        held = _held(absent, one if is_claim else None)
        said = f"{len(shards):,} of {absent.total:,} shards are not here: {listed(shards, 3)}; "
        said += f"by {absent.index_file} they hold {held}"
    hint = "finish the download"
    if pointers := len(absent.pointers):
        all_ = pointers == len(shards) > 1
        said += f" ({'all are Git LFS pointers' if all_ else counted(pointers, 'Git LFS pointer')})"
        hint = "run `git lfs pull` in the repository"
    return Finding(code="missing-shard", severity="error", message=said, tensors=absent.names, hint=hint)


def _held(absent: AbsentShards, one: Explanation | None) -> str:
    """`85 tensors of text`."""
    names = set(absent.names)
    count = counted(len(names), "tensor")
    roles = one.roles.items() if one is not None else ()
    held = {role: sum(name in names for name in match.claimed()) for role, match in roles}
    parts = {role: number for role, number in held.items() if number}
    if len(parts) == 1:
        return f"{count} of {next(iter(parts))}"
    words = [f"{number:,} of {role}" for role, number in parts.items()]
    return f"{count} ({', '.join(words)})" if words else count
