"""Where every tensor of a file went, and a finding for each that went nowhere.

Each name is used, dead, a second name of another, ignored by a named rule, or unexplained; each leaf is
there, tied, or missing. One finding is one cause: 391 tensors under a wrong prefix are one line.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dovetail.declare.family import Family, Mount
from dovetail.declare.part import Part
from dovetail.errors import listed
from dovetail.explain.detect import Explanation
from dovetail.explain.documents import Documents, Found
from dovetail.explain.match import PartMatch
from dovetail.explain.name_groups import SECOND_SET, top_modules
from dovetail.explain.sizes import Inference, vote_shape
from dovetail.explain.strays import Sighting, places_of
from dovetail.explain.trust import judged
from dovetail.report import Accounting, Finding, PartReport, Tie, counted
from dovetail.store.store import Entry, Kinds, Store, kinds_of, total_bytes, total_elements


def part_reports(
    one: Explanation, kinds: Mapping[str, Kinds], store: Store, tied: Iterable[Tie] = ()
) -> dict[str, PartReport]:
    """What is there of each part. Tensors that share bytes with another are counted once; `tied` are the
    ties of the family, of which those that are not here have no report."""
    reports = {}
    for role, match in one.roles.items():
        present = sum(len(row.tensors) for row in match.rows)
        parameters = size = 0
        dtypes: Counter[str] = Counter()
        shapes = {}
        for row in match.rows:
            all_of_it = kinds[row.text]
            vote = vote_shape(row, all_of_it, store.entries)
            shapes[row.text] = vote.shape if vote else None
            for (dtype, _), number in all_of_it.items():
                dtypes[dtype or "unknown"] += number
            twice = filter(store.aliases.__contains__, row.tensors.values())
            once = all_of_it - kinds_of(map(store.entries.__getitem__, twice))
            parameters += total_elements(once)
            size += total_bytes(once)
        reports[role] = PartReport(
            kind=match.part.id,
            layout=one.layouts[role][0] if one.layouts[role] else None,
            prefix=match.mount.prefix,
            expected=present + match.num_missing,
            present=present,
            parameters=parameters,
            bytes=size,
            dtypes=dict(dtypes),
            features=match.features,
            shapes=shapes,
        )
    lost = {tie.role for tie in tied if tie.is_lost}
    for role, leaf in one.family.ties.items():
        is_tied = role not in reports and role not in lost
        if is_tied and role in one.family.parts and leaf.split(".")[0] in reports:
            kind = one.family.parts[role][0].id
            reports[role] = PartReport(kind, None, "", 0, 0, 0, 0, {}, {}, tied_to=leaf)
    return reports


def ties(one: Explanation, documents: Documents) -> tuple[Tie, ...]:
    """The tied tensors of the family: stored or not, and what the config's flag says, if it counts."""
    found = []
    for role, leaf in one.family.ties.items():
        if leaf.split(".")[0] not in one.roles:
            continue
        flag = tie_flag(one.family, leaf, documents, is_stored=role in one.roles)
        is_overruled = flag is not None and (documents.trust == "weights" or documents.has_set_aside(flag))
        is_tied = is_overruled and role not in one.roles and not _bare_model(one, role, documents)
        found.append(Tie(role, leaf, role in one.roles, flag.value if flag and not is_tied else None))
    return tuple(found)


def tie_flag(family: Family, leaf: str, documents: Documents, *, is_stored: bool) -> Found | None:
    """Where a config says whether a head is tied to a leaf; of one that is not stored, where it says so.

    A nested config may say otherwise than the one around it (LLaVA-OneVision 0.5B on the hub), and
    transformers before 5 believes the inner one.
    """
    flags = tie_flags(family, leaf, documents)
    said_tied = [flag for flag in flags if flag.value is True and not is_stored]
    return next(iter([*said_tied, *flags]), None)


def tie_flags(family: Family, leaf: str, documents: Documents) -> list[Found]:
    """Every place where a config says whether a head is tied to a leaf."""
    roots = family.config.roots.get(leaf.split(".", maxsplit=1)[0], ("",))
    said = documents.find_all(("tie_word_embeddings",), tuple(dict.fromkeys(("", *roots))))
    return [flag for flag in said if isinstance(flag.value, bool)]


def accounting(
    one: Explanation, set_aside: Mapping[str, Sequence[str]], shared: Mapping[str, str]
) -> Accounting:
    """The balance: every name of the file in exactly one column."""
    used = dead = duplicates = 0
    ignored: Counter[str] = Counter({rule: len(names) for rule, names in set_aside.items()})
    for match in one.roles.values():
        for row in match.rows:
            twice = sum(1 for name in row.tensors.values() if name in shared)
            duplicates += twice
            if match.part.leaves[row.row.leaves[0]].is_dead:
                dead += len(row.tensors) - twice
            else:
                used += len(row.tensors) - twice
        duplicates += len(match.duplicates)
        for _, reason in match.ignored:
            ignored[reason] += 1
    return Accounting(used, dead, duplicates, dict(ignored), one.num_unexplained)


def findings(
    named: Explanation, one: Explanation, inference: Inference, documents: Documents, *, is_claim: bool
) -> Iterator[Finding]:
    """One finding per cause for all that names alone can show.

    `named` has the names of shards that are not here as well: those are one cause, and not missing. Nobody is
    sent for tensors of a family that is not claimed.
    """
    renamed: set[str] = set()
    for role, match in named.roles.items():
        if match.lacks:
            yield _unless_claimed(named, _missing(named, role, match, renamed), is_claim=is_claim)
    for role, rows in named.absent.items():
        yield _unless_claimed(named, _absent(named, role, rows, renamed), is_claim=is_claim)
    yield from _unexplained(one, renamed)
    yield from _layout_findings(one)
    yield from _second_sets(one)
    yield from _notes(one, inference.kinds, one.inventory.entries)
    yield from _tie_findings(one, documents)


_RANDOM = "a loader would leave this random; find the file that has it"
_WITHOUT = "the checkpoint was saved without it, or its tensors are in another file"


def _unless_claimed(one: Explanation, finding: Finding, *, is_claim: bool) -> Finding:
    """The finding without the hint to look for files, where the family is no more than the closest one."""
    if is_claim or finding.hint not in (_RANDOM, _WITHOUT):
        return finding
    return finding._replace(hint=f"if this is {one.family.title}, a loader would leave it random")


def _missing(one: Explanation, role: str, match: PartMatch, renamed: set[str]) -> Finding:
    expected = sum(len(row.tensors) for row in match.rows) + match.num_missing
    names = match.missing
    hint = None
    elsewhere = _free_places(one, role, match.part, match.mount.naming)
    if place := next((place for place in elsewhere if place.prefix != match.mount.prefix), None):
        renamed |= set(place.match.claimed())
        return _moved(role, match.mount.prefix, place.prefix, place.match.num_claimed, names)
    if len(names) <= 3 and (near := _near(names[0], one.unexplained)):
        hint = f"`{near}` is there instead: rename it"
    quoted = listed([f"`{name}`" for name in names], 3)
    are = "are" if len(names) > 1 else "is"
    return Finding(
        code="missing",
        severity="error",
        part=role,
        message=f"{len(names)} of {expected} tensors of {role} {are} missing: {quoted}",
        tensors=names,
        hint=hint or _missing_layers(match) or _RANDOM,
    )


def _missing_layers(match: PartMatch) -> str | None:
    """When whole layers are missing, say so: a hole in the numbering is a lost shard."""
    for stack, indices in match.stacks.items():
        present = {index for row in match.rows if row.stack == stack for index in row.tensors}
        if holes := sorted(index[0] for index in indices - present):
            return (
                f"{stack[0]} {listed(holes, 5)} of {len(indices)} is missing altogether: a shard may be lost"
            )
    return None


def _near(name: str, candidates: Sequence[str]) -> str | None:
    """An unexplained name that differs from a missing one in a single segment, by a typo."""
    import difflib

    pieces = name.split(".")
    for candidate in candidates:
        others = candidate.split(".")
        if len(others) == len(pieces):
            differing = [(a, b) for a, b in zip(pieces, others, strict=True) if a != b]
            if len(differing) == 1 and difflib.SequenceMatcher(None, *differing[0]).ratio() > 0.7:
                return candidate
    return None


def _absent(one: Explanation, role: str, rows: int, renamed: set[str]) -> Finding:
    ids = one.common_layouts or tuple(id for ids in one.layouts.values() for id in ids)
    mount = one.family.layout(ids[0]).mounts[role][0] if ids else None
    for part in one.family.parts[role]:
        if mount and mount.naming in part.namings and "{" in part.table:
            for place in _free_places(one, role, part, mount.naming):
                names = tuple(place.match.claimed())
                renamed |= set(names)
                return _moved(role, mount.prefix, place.prefix, len(names), names)
    names = _first_names(one.family.parts[role], mount) if mount else ()
    first = f", first `{names[0]}`" if names else ""
    return Finding(
        code="missing-part",
        severity="error",
        part=role,
        message=f"{role} is missing altogether: at least {counted(rows, 'kind')} of tensors{first}",
        tensors=names,
        hint=_WITHOUT,
    )


def _free_places(one: Explanation, role: str, part: Part, naming: str) -> Iterator[Sighting]:
    """Where a part is whole, in tensors that no other role has."""
    taken = {name for other, match in one.roles.items() if other != role for name in match.claimed()}
    return (
        place for place in places_of(part, naming, one.inventory) if taken.isdisjoint(place.match.claimed())
    )


def _first_names(kinds: Sequence[Part], mount: Mount) -> tuple[str, ...]:
    part = next(part for part in kinds if mount.naming in part.namings)
    return tuple(
        mount.prefix + row.stored.text for row in part.rows(mount.naming) if part.is_required(row.leaves[0])
    )


def _moved(role: str, expected: str, found: str, count: int, names: tuple[str, ...]) -> Finding:
    return Finding(
        code="unknown-prefix",
        severity="error",
        part=role,
        message=f"{role}: {counted(count, 'tensor')} under `{found}`, expected under `{expected}`",
        tensors=names,
        hint=f"no known tool writes `{found}`; rename it, or declare a layout (docs/guides/family.md)",
    )


def _unexplained(one: Explanation, renamed: set[str]) -> Iterator[Finding]:
    left = one.inventory.restricted_to(set(one.unexplained) - renamed)
    for prefix, count, first in top_modules(left.groups):
        inside = tuple(name for name in left.names() if _is_under(name, prefix))
        where = f"`{first}` fits" if count == 1 else f"{count} tensors under `{prefix}` fit"
        begin = "" if count == 1 else f", first `{first}`"
        yield Finding(
            code="unexpected",
            severity="error",
            message=f"{where} nothing in {one.family.id}{begin}",
            tensors=inside,
            hint="a loader would drop this silently; dovetail will not",
        )


def _is_under(name: str, prefix: str) -> bool:
    dotted = name.replace("/", ".")
    return dotted == prefix or f".{prefix}." in f".{dotted}"


def _as_others_know_it(family: Family) -> str:
    usual = next(layout.id for layout in family.layouts if layout.is_writable)
    return f"write it as they know it: `dovetail convert CKPT OUT --to {usual}`"


def _second_sets(one: Explanation) -> Iterator[Finding]:
    """Weights that are there twice, mostly as trained and as averaged over time: which are used."""
    wrappers = "".join(one.inventory.wrappers)
    used = f"those under `{wrappers}`" if wrappers else "the others"
    for rule, names in one.inventory.set_aside.items():
        if rule.startswith(SECOND_SET):
            yield Finding(
                code="second-set",
                severity="warning",
                message=f"{rule} is not used, {counted(len(names), 'tensor')}, first `{names[0]}`; used are "
                f"{used}",
                tensors=tuple(names),
                hint="to use it, save it by itself",
            )


def _layout_findings(one: Explanation) -> Iterator[Finding]:
    if not one.roles:
        return
    if isinstance(one.layout, dict):
        where = ", ".join(f"{role} is {id}" for role, id in one.layout.items())
        yield Finding(
            code="mixed-layouts",
            severity="warning",
            message=f"the parts are in different layouts: {where}",
            hint=f"other loaders leave one of the parts random; {_as_others_know_it(one.family)}",
        )
        return
    ids = one.common_layouts
    buggy = [one.family.layout(id) for id in ids if not one.family.layout(id).is_writable]
    if len(buggy) == len(ids):
        yield Finding(
            code="buggy-layout",
            severity="warning",
            message=f"layout {buggy[0].id}: {buggy[0].note}",
            hint=f"other loaders leave a part of it random; {_as_others_know_it(one.family)}",
        )
    if len(ids) > 1:
        yield Finding(
            code="same-layouts",
            severity="note",
            message=f"layouts {listed(ids)} cannot be told apart on this file; it is read as {ids[0]}",
        )


def _notes(one: Explanation, kinds: Mapping[str, Kinds], entries: Mapping[str, Entry]) -> Iterator[Finding]:
    for role, match in one.roles.items():
        for row in match.rows:
            if match.part.leaves[row.row.leaves[0]].is_dead:
                names = tuple(row.tensors.values())
                elements = sum(entries[name].elements for name in names)
                size = f", {elements:,} parameters" if elements else ""
                yield Finding(
                    code="dead",
                    severity="note",
                    part=role,
                    message=f"`{names[0]}` is stored and nothing uses it{size}",
                    tensors=names,
                )
        if match.duplicates:
            pairs = match.duplicates
            yield Finding(
                code="duplicate",
                severity="note",
                part=role,
                message=f"{counted(len(pairs), 'second name')} of tensors that have one already, "
                f"first `{pairs[0][0]}` = `{pairs[0][1]}`",
                tensors=tuple(name for name, _ in pairs),
            )
        if match.ignored:
            reasons = Counter(reason for _, reason in match.ignored)
            what = ", ".join(
                f"{count} {reason}{'s' if count > 1 else ''}" for reason, count in reasons.items()
            )
            yield Finding(
                code="ignored",
                severity="note",
                part=role,
                message=f"{what} in {role} carry no weights, first `{match.ignored[0][0]}`",
                tensors=tuple(name for name, _ in match.ignored),
            )
        if match.alike:
            ids = " or ".join(part.id for part in (match.part, *match.alike))
            yield Finding(
                code="same-kinds",
                severity="note",
                part=role,
                message=f"{role} may be {ids}: their tensors are the same; it is read as {match.part.id}",
            )


def _bare_model(one: Explanation, role: str, documents: Documents) -> str | None:
    """What a checkpoint is that has no head by design: a bare class (`LlavaModel`), or a layout of one."""
    named = documents.find(("architectures",), ("",))
    classes = named.value if named is not None and isinstance(named.value, list) else []
    if classes and isinstance(classes[0], str) and classes[0].endswith("Model"):
        return f"a `{classes[0]}`"
    layouts = [one.family.layout(id) for id in one.common_layouts]
    is_bare = bool(layouts) and all(role not in layout.mounts for layout in layouts)
    return "the bare model" if is_bare else None


def _tie_findings(one: Explanation, documents: Documents) -> Iterator[Finding]:
    for role, leaf in one.family.ties.items():
        if leaf.split(".")[0] not in one.roles:
            continue
        flag = tie_flag(one.family, leaf, documents, is_stored=role in one.roles)
        is_lost = flag is not None and role not in one.roles and flag.value is False
        if is_lost and (bare := _bare_model(one, role, documents)):
            yield Finding(
                code="no-head",
                severity="note",
                part=role,
                message=f"{role} is not here: this is {bare}, which has none",
                hint="it gives hidden states and no logits; for those, find the model with its head",
            )
        elif flag is not None and is_lost:
            finding = Finding(
                code="tie-flag",
                severity="error",
                part=role,
                message=f"{role} is not in the file, and the config says tie_word_embeddings = false",
                hint="set the flag to true, or find the tensor: a loader that believes it leaves it random",
            )
            yield judged(finding, kept="weights", found=flag, documents=documents)
        others = [] if role in one.roles else tie_flags(one.family, leaf, documents)
        if flag is not None and flag.value and (said := [one for one in others if not one.value]):
            yield Finding(
                code="tie-flag",
                severity="warning",
                part=role,
                message=f"{role} is not in the file, and tied as {flag.place} = true says; "
                f"{said[0].place} is false",
                hint="a loader that believes the other leaves it random; `dovetail convert` writes one flag",
            )
        if flag is not None and role in one.roles and flag.value is True:
            yield Finding(
                code="tie-flag",
                severity="note",
                part=role,
                message=f"{role} is stored and used although the config says tie_word_embeddings = true",
                hint="`dovetail validate --values` compares it with the embedding",
            )
