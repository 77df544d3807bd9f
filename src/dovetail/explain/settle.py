"""What names leave open and shapes or documents settle: kinds of a part, layouts that are turned matrices."""

from collections.abc import Iterator, Mapping

from dovetail.declare.family import Family, Layout, Mount
from dovetail.declare.part import Part
from dovetail.explain.detect import Detection, Explanation, explain
from dovetail.explain.documents import Documents
from dovetail.explain.match import match_part
from dovetail.explain.sizes import infer, num_misfits
from dovetail.store.store import Entry


def as_named(family: Family, documents: Documents) -> Family:
    """The family without the kinds that only a config can bring in, where none does."""
    if not any(part.facts.only_named for parts in family.parts.values() for part in parts):
        return family
    kept = {}
    for role, parts in family.parts.items():
        named = documents.first_named(parts, family.config.roots.get(role, ("",)))
        told = documents.kind(role)
        ids = {str(told.value) if told else "", *(part.id for part in named)}
        kept[role] = tuple(part for part in parts if not part.facts.only_named or part.id in ids)
    return family.with_parts(kept)


def with_settled_kinds(detection: Detection, entries: Mapping[str, Entry], documents: Documents) -> Detection:
    """Of several kinds of a part with the same names: the one whose shapes fit, or that a config names."""
    one = detection.closest
    if one is None or not any(match.alike for match in one.roles.values()):
        return detection
    roles = {}
    for role, match in one.roles.items():
        kinds = (match.part, *match.alike)
        as_kind = {id(part): match_part(part, match.mount, one.inventory) for part in match.alike}
        as_kind[id(match.part)] = match
        misfits = {id(part): num_misfits(as_kind[id(part)], entries) for part in kinds}
        fitting = [part for part in kinds if misfits[id(part)] == min(misfits.values())]
        if len(fitting) > 1:
            alone = (one._replace(roles={role: as_kind[id(part)]}) for part in fitting)
            quarrels = [len(infer(each, entries).bad) for each in alone]
            fitting = [
                part for part, number in zip(fitting, quarrels, strict=True) if number == min(quarrels)
            ]
        roots = one.family.config.roots.get(role, ("",))
        said = documents.kind(role)
        stamped = [part for part in fitting if said and part.id == said.value]
        named = stamped or [*documents.first_named(fitting, roots)]
        chosen = (named or fitting)[0]
        others = tuple(part for part in fitting if part is not chosen)
        roles[role] = as_kind[id(chosen)]._replace(alike=others)
        if named:
            roles[role] = roles[role]._replace(alike=())
    settled = one._replace(roles=roles)
    return detection._replace(closest=settled, claim=settled if detection.claim else None)


def with_settled_layout(detection: Detection, entries: Mapping[str, Entry]) -> Detection:
    """Of several layouts with the same names: the one whose shapes contradict each other least.

    The experts of one family may be stored one way round or the other, under one name.
    """
    one = detection.closest
    if one is None or not (twins := [*_twins(one)]):
        return detection
    found = [one, *(explain(one.inventory, one.family, twin) for twin in twins)]
    settled = min(found, key=lambda each: len(infer(each, entries).bad))
    return detection._replace(closest=settled, claim=settled if detection.claim else None)


def _twins(one: Explanation) -> Iterator[Layout]:
    """Layouts in which every part has the names it has in the file, and some part another naming."""
    for other in one.family.layouts:
        if not one.roles or not one.roles.keys() <= other.mounts.keys():
            continue
        mounts = {
            role: _same_names(match.part, match.mount, other, role) for role, match in one.roles.items()
        }
        if all(mounts.values()) and any(mount != one.roles[role].mount for role, mount in mounts.items()):
            yield other


def _same_names(part: Part, mount: Mount, other: Layout, role: str) -> Mount | None:
    """The mount of another layout that gives a part the same names."""
    for each in other.mounts[role]:
        if each == mount:
            return each
        if each.naming in part.namings and each._replace(naming=mount.naming) == mount:
            names = {row.stored for row in part.rows(mount.naming)}
            if names == {row.stored for row in part.rows(each.naming)}:
                return each
    return None
