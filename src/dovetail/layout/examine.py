"""From an opened store to a report: group, detect, solve, account. Header only."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import NamedTuple, TypedDict

from dovetail.dtypes import BITS
from dovetail.errors import listed
from dovetail.layout import account
from dovetail.layout.chunks import Chunk, join_chunks
from dovetail.layout.config import fill_config
from dovetail.layout.detect import Detection, Explanation, detect, explain
from dovetail.layout.documents import Documents, read_documents
from dovetail.layout.family import Family
from dovetail.layout.infer import Inference, infer
from dovetail.layout.inventory import Inventory, take_inventory, top_modules
from dovetail.layout.search import find_parts
from dovetail.report import Accounting, Closest, Finding, Report, Value, sort_findings
from dovetail.store.store import Store


class Examination(NamedTuple):
    """A report, and what it was made from, for verbs that go on from there."""

    report: Report
    store: Store
    one: Explanation | None
    inference: Inference | None
    documents: Documents


def examine(
    store: Store,
    families: Iterable[Family],
    *,
    more_families: Callable[[], Iterable[Family]] = tuple,
    as_family: Family | None = None,
    as_layout: str | None = None,
) -> Examination:
    """Says what a checkpoint is. `more_families` are asked only if none of `families` explains it.

    `as_family` and `as_layout` hold the file against one family whatever it looks like.
    """
    clock = _Clock()
    inventory, chunks = join_chunks(take_inventory(store.entries))
    documents = read_documents(store)
    clock.lap("names")
    if as_family is not None:
        one = explain(inventory, as_family, as_family.layout(as_layout) if as_layout else None)
        known = [as_family]
        detection = Detection(one if one.is_whole else None, one, (), inventory)
    else:
        known = list(families)
        detection = detect(inventory, known, model_type=documents.model_type)
        if detection.claim is None and (extra := list(more_families())):
            known += extra
            detection = detect(inventory, known, model_type=documents.model_type)
    clock.lap("detect")
    if detection.closest is None or (as_family is None and not _is_close(detection)):
        report = _unknown(store, detection, documents, known, chunks, clock)
        return Examination(report, store, None, None, documents)
    inference = infer(detection.closest, store.entries)
    clock.lap("solve")
    report = _known(store, detection, inference, documents, known, chunks, clock)
    return Examination(report, store, detection.closest, inference, documents)


def _closest(one: Explanation, families: Iterable[Family]) -> Closest:
    missing = sum(len(match.missing) for match in one.roles.values())
    fits = tuple(sighting.text for sighting in find_parts(one.inventory, families))
    layout = one.layout if isinstance(one.layout, str) else None
    return Closest(one.family.id, layout, missing, len(one.unexplained), fits)


def _incomplete(closest: Closest, documents: Documents) -> Finding:
    name = closest.family if closest.layout is None else f"{closest.family}/{closest.layout}"
    numbers = f"{closest.missing} of its tensors are missing, {closest.unexplained} fit nothing in it"
    holds = f"; whole in this file: {listed(closest.fits, 3)}" if closest.fits else ""
    said = f"; a config names the model_type `{documents.model_type}`" if documents.model_type else ""
    return Finding(
        code="incomplete",
        severity="error",
        message=f"no family is all here; {name} comes closest: {numbers}{holds}{said}",
        hint="the findings below say what is missing and what does not fit",
    )


class _Clock:
    """Seconds per step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _is_close(detection: Detection) -> bool:
    """Whether the closest family explains enough of the file to be worth naming."""
    one = detection.closest
    if one is None:
        return False
    if detection.claim is not None:
        return True
    total = sum(1 for _ in one.inventory.names())
    claimed = sum(match.num_claimed for match in one.roles.values())
    missing = sum(len(match.missing) for match in one.roles.values())
    return claimed * 2 >= total and missing * 2 <= claimed


def _known(
    store: Store,
    detection: Detection,
    inference: Inference,
    documents: Documents,
    families: Iterable[Family],
    chunks: tuple[Chunk, ...],
    clock: _Clock,
) -> Report:
    one = detection.closest
    assert one is not None
    is_claim = detection.claim is not None
    closest = None if is_claim else _closest(one, families)
    findings = [_incomplete(closest, documents)] if closest is not None and not one.is_whole else []
    findings += [*store.findings, *documents.findings, *inference.findings]
    config = fill_config(one, inference, documents, findings)
    findings += account.findings(one, store.entries, documents)
    findings += _family_findings(detection, documents)
    variant = one.family.variants.get(documents.model_type or "")
    if one.family.variants:
        config = {"variant": _variant(variant, documents), **config}
    clock.lap("account")
    return Report(
        path=store.path,
        format=store.format,
        files=store.files,
        family=one.family.id if is_claim else None,
        title=one.family.title if is_claim else None,
        variant=variant if is_claim else None,
        layout=one.layout if is_claim else None,
        same_layouts=one.common_layouts[1:],
        candidates=tuple(rival.family.id for rival in (one, *detection.rivals)) if detection.rivals else (),
        wrappers=one.inventory.wrappers,
        chunks=tuple(chunk.as_json() for chunk in chunks),
        parts=account.part_reports(one, store.entries, store.aliases),
        config=config,
        ties=account.ties(one, documents),
        accounting=account.accounting(one, one.inventory.set_aside, store.aliases),
        findings=sort_findings(findings),
        closest=closest,
        unchecked=unchecked(store),
        seconds=clock.seconds,
        **_totals(store, one.inventory),
    )


def _unknown(
    store: Store,
    detection: Detection,
    documents: Documents,
    families: Iterable[Family],
    chunks: tuple[Chunk, ...],
    clock: _Clock,
) -> Report:
    inventory = detection.inventory
    sightings = find_parts(inventory, families)
    clock.lap("search")
    explained = {name for sighting in sightings for name in sighting.match.claimed()}
    rest = {key: group for key, group in inventory.groups.items() if not explained.issuperset(group.names)}
    fits = tuple(sighting.text for sighting in sightings)
    modules = top_modules(rest)
    foreign = [f"{module.size} tensors under `{module.prefix}`, first `{module.first}`" for module in modules]
    found = f"it holds {listed(fits, 4)}; " if fits else ""
    finding = Finding(
        code="unknown-family",
        severity="error",
        message=f"no family that dovetail knows: {found}nothing known fits {listed(foreign, 3) or 'the rest'}",
        tensors=tuple(module.first for module in modules),
        hint="`dovetail families` lists what is known; docs/guides/family.md shows how to declare another",
    )
    if not store.entries:
        finding = Finding(
            code="empty",
            severity="error",
            message="there is not one tensor in it",
            hint="this is a placeholder, not a checkpoint",
        )
    ignored = {rule: len(names) for rule, names in inventory.set_aside.items()}
    kinds = account.foreign_kinds(list(inventory.names()))
    return Report(
        path=store.path,
        format=store.format,
        files=store.files,
        family=None,
        title=None,
        variant=None,
        layout=None,
        same_layouts=(),
        candidates=(),
        wrappers=inventory.wrappers,
        chunks=tuple(chunk.as_json() for chunk in chunks),
        parts={},
        config={},
        ties=(),
        accounting=Accounting(0, 0, 0, ignored, sum(1 for _ in inventory.names())),
        findings=sort_findings((finding, *kinds, *store.findings, *documents.findings)),
        closest=Closest(None, None, 0, sum(1 for _ in inventory.names()), fits),
        unchecked=unchecked(store),
        seconds=clock.seconds,
        **_totals(store, inventory),
    )


def _family_findings(detection: Detection, documents: Documents) -> Iterable[Finding]:
    one = detection.closest
    assert one is not None
    if detection.rivals:
        ids = [one.family.id, *(rival.family.id for rival in detection.rivals)]
        yield Finding(
            code="same-families",
            severity="error",
            message=f"names and shapes fit {' and '.join(ids)} alike",
            hint=f"put its config.json beside it (model_type decides), or say which: `dovetail validate … --as {ids[0]}`",
        )
    elif detection.claim is None and one.is_whole and one.unexplained:
        yield Finding(
            code="larger-model",
            severity="error",
            message=f"every tensor of {one.family.id} is here, but the file is a larger model: see what fits nothing",
            hint=f"`dovetail validate … --as {one.family.id}` holds it against {one.family.id} alone",
        )
    known = one.family.config.model_types
    if detection.claim and known and documents.model_type is not None and documents.model_type not in known:
        yield Finding(
            code="config-family",
            severity="warning",
            message=f"a config names the model_type `{documents.model_type}`, the tensors are {one.family.id}",
            hint="the config may belong to another checkpoint",
        )


def _variant(variant: str | None, documents: Documents) -> Value:
    if variant is None:
        return Value(
            value=None,
            source="undetermined",
            evidence="the same tensors in every variant; model_type decides",
        )
    return Value(value=variant, source="config", evidence=f"model_type = {documents.model_type}")


def unchecked(store: Store) -> tuple[str, ...]:
    """What this kind of input cannot show, in words."""
    return store.limits


class _Totals(TypedDict):
    tensors: int
    parameters: int | None
    bytes: int | None
    dtypes: Mapping[str, int]


def _totals(store: Store, inventory: Inventory) -> _Totals:
    aside = {name for names in inventory.set_aside.values() for name in names}
    dtypes: Counter[str] = Counter()
    tensors = parameters = size = 0
    for name, entry in store.entries.items():
        if name in aside:
            continue
        tensors += 1
        dtypes[entry.dtype or "unknown"] += 1
        if name not in store.aliases:
            elements = entry.elements
            parameters += elements
            size += elements * BITS.get(entry.dtype, 0) // 8
    return {
        "tensors": tensors,
        "parameters": parameters if store.has_shapes else None,
        "bytes": size if store.has_shapes and "unknown" not in dtypes else None,
        "dtypes": dict(dtypes),
    }
