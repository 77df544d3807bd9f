"""From an opened store to a report: group, detect, solve, account. Headers only."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, TypedDict

from dovetail.declare.family import Family
from dovetail.explain import accounts as account
from dovetail.explain.adapters import Found as FoundAdapter
from dovetail.explain.adapters import without_adapter
from dovetail.explain.certificate import held_against
from dovetail.explain.chunks import join_chunks
from dovetail.explain.config import fill_config
from dovetail.explain.detect import Detection, Explanation, detect, explain, is_it, without_wrapper
from dovetail.explain.documents import Documents, Side, read_documents
from dovetail.explain.element_types import dtype_findings
from dovetail.explain.lost_chunks import lost_chunks
from dovetail.explain.name_groups import Inventory, take_inventory
from dovetail.explain.nodes import Node, as_node, as_of_node, place_of
from dovetail.explain.quantised import Packing, unpacked
from dovetail.explain.settle import as_named, with_settled_kinds, with_settled_layout
from dovetail.explain.shards import promised_entries, shard_finding, with_what_is_here
from dovetail.explain.sizes import Inference, infer
from dovetail.explain.strays import find_parts
from dovetail.explain.tags import tag_findings
from dovetail.explain.variant import VARIANT, variant_of
from dovetail.explain.verdict import EMPTY, Verdict
from dovetail.report import (
    Accounting,
    Closest,
    Finding,
    PartReport,
    Report,
    Tie,
    Value,
    sort_findings,
)
from dovetail.store.store import Store, total_bytes, total_elements

Families = Callable[[], Iterable[Family]]


VALUES_UNREAD = "values (`dovetail validate --values` reads them)"


class Examination(NamedTuple):
    """A report, and what it was made from, for verbs that go on from there."""

    report: Report
    store: Store
    explanation: Explanation | None
    inference: Inference | None
    documents: Documents
    set_aside: Mapping[str, list[str]] = {}


def examine(
    store: Store,
    families: Families,
    *,
    more_families: Families = tuple,
    as_family: Family | None = None,
    as_layout: str | None = None,
    given: Mapping[str, Any] | None = None,
    trust: Side | None = None,
    ignores_stamp: bool = False,
) -> Examination:
    """Says what a checkpoint is. `more_families` are asked only if none of `families` explains it.

    Both are functions, so that a family is imported only when its turn comes.
    `as_family` and `as_layout` hold the file against one family whatever it looks like. `given` are
    values by `role.name`, for what no weight shows; `trust` is the side that counts where weights, configs
    and stamp contradict each other. `ignores_stamp` reads all documents but our own.
    """
    clock = _Clock(open=store.seconds)
    inventory, chunks = join_chunks(take_inventory(promised_entries(store)))
    documents = read_documents(store)._replace(given=dict(given or {}), trust=trust)
    if ignores_stamp:
        kept = tuple(one for one in documents.findings if one.code != "certificate-unreadable")
        documents = documents._replace(stamp=None, findings=kept)
    families = partial(_as_named, families, documents)
    counted_in = inventory
    inventory, adapter = without_adapter(inventory, documents)
    inventory, packing = unpacked(inventory, documents)
    entries = inventory.entries
    clock.lap("names")
    if as_family is not None:
        layout = as_family.layout(as_layout) if as_layout else None
        views = filter(None, (inventory, without_wrapper(inventory)))
        one = min((explain(view, as_family, layout) for view in views), key=lambda one: one.cost)
        is_claim = one.is_whole or is_it(one)
        detection = Detection(one if is_claim else None, one, (), one.inventory)
    else:
        find = partial(detect, inventory, named=documents.named, is_preferred=documents.names)
        detection = find(families())
        if detection.claim is None and (extra := tuple(more_families())):
            detection = find((*families(), *extra))
    clock.lap("detect")
    if documents.node is not None and as_family is None:
        detection = _as_node(detection, documents.node, (*families(), *more_families()))
    detection = with_settled_kinds(detection, entries, documents)
    if as_layout is None:
        detection = with_settled_layout(detection, entries)
    verdict = Verdict(
        detection, documents, lambda: (*families(), *more_families()), is_asserted=as_family is not None
    )
    here = with_what_is_here(detection.closest, store) if verdict.is_close and detection.closest else None
    subject = _Subject(store, detection, documents, verdict, adapter, packing)
    inference = infer(here, entries) if here else None
    clock.lap("solve")
    if here and inference and trust is not None and detection.claim is not None:
        documents = held_against(documents, here, inference, store)[1]
    facts = subject.known(here, inference) if here and inference else subject.unknown()
    clock.lap("account")
    report = Report(
        path=store.path,
        format=store.format,
        files=store.files,
        chunks=_nodes(store, documents) or tuple(chunk.as_json() for chunk in chunks),
        unchecked=store.limits or (VALUES_UNREAD,),
        seconds=clock.seconds,
        **facts,
        **_totals(store, counted_in, packing),
        quantisation=packing.quantisation if packing else None,
        adapter=adapter.adapter if adapter else None,
    )
    return Examination(report, store, here, inference, documents, inventory.set_aside)


def _as_named(families: Families, documents: Documents) -> Iterator[Family]:
    """Each when its turn comes, for only then is it imported."""
    return (as_named(one, documents) for one in families())


def _as_node(detection: Detection, node: Node, families: Iterable[Family]) -> Detection:
    """The detection of a single node of a split, held against the family that its certificate names."""
    for family in families:
        if family.id != node.values.get("family"):
            continue
        ids = {one.id for one in family.layouts}
        named = node.values.get("layout")
        layout = family.layout(named) if isinstance(named, str) and named in ids else None
        for inventory in filter(None, (detection.inventory, without_wrapper(detection.inventory))):
            one = as_node(explain(inventory, family.narrowed(node.kinds), layout), node)
            if one is not None:
                return Detection(one, one, (), inventory)
    return detection


def _nodes(store: Store, documents: Documents) -> tuple[dict[str, Any], ...]:
    """The nodes of a split folder."""
    if store.format != "nodes":
        return ()
    counts = Counter(place_of(store, store.files[entry.file]) for entry in store.entries.values())
    return tuple(node.as_chunk(counts[node.place]) for node in documents.nodes)


class _Clock:
    """Seconds per step."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


class _Facts(TypedDict):
    family: str | None
    title: str | None
    variant: str | None
    layout: str | dict[str, str] | None
    same_layouts: tuple[str, ...]
    candidates: tuple[str, ...]
    wrappers: tuple[str, ...]
    parts: Mapping[str, PartReport]
    config: Mapping[str, Value]
    ties: tuple[Tie, ...]
    accounting: Accounting
    findings: tuple[Finding, ...]
    closest: Closest | None


class _Subject(NamedTuple):
    """One file under examination."""

    store: Store
    detection: Detection
    documents: Documents
    verdict: Verdict
    adapter: FoundAdapter | None
    packing: Packing | None

    def known(self, one: Explanation, inference: Inference) -> _Facts:
        """The facts of a file that is, or comes close to, a known family."""
        store, documents = self.store, self.documents
        is_claim = self.detection.claim is not None
        certified: list[Finding] = []
        if is_claim and store.absent is None:
            certified, documents = held_against(documents, one, inference, store)
        config, findings = fill_config(one, inference, documents=documents)
        if not is_claim and documents.model_type not in (None, *one.family.config.model_types):
            findings = []  # a config of another family has no quarrel with the one that comes closest
        findings = certified + findings
        variant = None
        if one.family.variants:
            said, more = variant_of(one.family, documents)
            config, findings, variant = {VARIANT: said, **config}, findings + more, said.value
        closest = self.verdict.closest()
        findings += [*store.findings, *documents.findings, *inference.findings]
        named = self.detection.closest or one
        findings += account.findings(named, one, inference, documents, is_claim=is_claim)
        packed = self.packing.rows if self.packing else ()
        findings += dtype_findings(one, inference.kinds, one.inventory.entries, packed)
        findings += tag_findings(documents)
        tied = account.ties(one, documents) if documents.node is None else ()
        parts = account.part_reports(one, inference.kinds, store, tied)
        if self.packing:
            parts = self.packing.as_stored(parts, one, store.entries)
        if documents.node is not None:
            config, findings = as_of_node(config, findings, one, documents.node)
            parts = {role: part for role, part in parts.items() if part.tied_to is None}
        findings = [*self.verdict.damage(closest), *self.verdict.of_families(), *findings]
        findings = self._first(one.family.title if is_claim else None, findings)
        if store.absent is not None:
            findings.insert(0, shard_finding(store.absent, named, is_claim=is_claim))
        lost = lost_chunks(store, documents, one)
        if lost is not None:
            findings = [lost.finding, *(each for each in findings if not lost.explains(each))]
        return {
            "family": one.family.id if is_claim else None,
            "title": self.verdict.title(one, lost.names if lost else ()),
            "variant": variant if is_claim else None,
            "layout": one.layout if is_claim else None,
            "same_layouts": one.common_layouts[1:],
            "candidates": self.verdict.candidates,
            "wrappers": one.inventory.wrappers,
            "parts": parts,
            "config": config,
            "ties": tied,
            "accounting": account.accounting(one, one.inventory.set_aside, store.aliases),
            "findings": sort_findings(findings),
            "closest": closest,
        }

    def unknown(self) -> _Facts:
        """The facts of a file that no family comes close to."""
        inventory = self.detection.inventory
        fits = find_parts(inventory, self.verdict.families())
        findings = [self.verdict.unknown(fits) if inventory.groups else EMPTY]
        if self.adapter and self.adapter.adapter.is_alone:
            findings = []
        findings += [*self.store.findings, *self.documents.findings]
        findings = self._first(None, findings)
        one = self.detection.closest
        if one is not None and (lost := lost_chunks(self.store, self.documents, one)):
            findings.insert(0, lost.finding)
        if self.store.absent is not None:
            findings.append(shard_finding(self.store.absent, None, is_claim=False))
        return {
            "family": None,
            "title": self.verdict.title(),
            "variant": None,
            "layout": None,
            "same_layouts": (),
            "candidates": (),
            "wrappers": inventory.wrappers,
            "parts": {},
            "config": {},
            "ties": (),
            "accounting": Accounting(0, 0, 0, _counts(inventory.set_aside), self._num_here(inventory)),
            "findings": sort_findings(findings),
            "closest": Closest(None, None, 0, self._num_here(inventory), tuple(one.text for one in fits)),
        }

    def _num_here(self, inventory: Inventory) -> int:
        return sum(name in self.store.entries for name in inventory.names())

    def _first(self, title: str | None, findings: list[Finding]) -> list[Finding]:
        """The findings, behind those that say that this is no plain model: packed weights, an adapter."""
        first = [self.adapter.finding] if self.adapter else []
        if self.packing:
            said = self.documents.model_type
            first += self.packing.findings(title or (f"`{said}`" if said else None))
            findings = [one for one in findings if not self.packing.is_about_packing(one)]
        return [*first, *findings]


def _counts(set_aside: Mapping[str, list[str]]) -> dict[str, int]:
    return {rule: len(names) for rule, names in set_aside.items()}


class _Totals(TypedDict):
    tensors: int
    parameters: int | None
    bytes: int | None
    dtypes: Mapping[str, int]


def _totals(store: Store, inventory: Inventory, packing: Packing | None) -> _Totals:
    """Sums over every tensor that is not training state; what shares bytes counts once.

    Packed weights count as the parameters that they hold, and what stands beside them as none.
    """
    aside = {name for names in inventory.set_aside.values() for name in names}
    once = store.kinds({*aside, *store.aliases})
    dtypes: Counter[str] = Counter()
    for (dtype, _), count in store.kinds(aside).items():
        dtypes[dtype or "unknown"] += count
    parameters = total_elements(once)
    if packing:
        parameters += packing.more_elements(store.entries)
    return {
        "tensors": dtypes.total(),
        "parameters": parameters if store.has_shapes else None,
        "bytes": total_bytes(once) if store.has_shapes and "unknown" not in dtypes else None,
        "dtypes": dict(dtypes),
    }
