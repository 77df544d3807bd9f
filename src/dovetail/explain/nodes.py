"""A model cut over nodes: what the certificates of the nodes say, and whether they fit together.

`dovetail split` writes a certificate for every node: which model it is of (by fingerprint), its place
among the nodes, its layers and its leaves. A folder with all nodes is one model; a single node is whole
when it has the leaves that its certificate names.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dovetail.explain.detect import Explanation
from dovetail.explain.leaves import leaf_names
from dovetail.report import Finding, Value, counted
from dovetail.store.store import Store

CERTIFICATE = "dovetail.json"
_LIMIT = 64 << 20


class Node(NamedTuple):
    """One node's certificate, and the folder or file that it is about."""

    place: str
    values: Mapping[str, Any]

    @property
    def fact(self) -> Mapping[str, Any]:
        """Its place among the nodes, empty if the certificate says none."""
        return _dict(self.values.get("node"))

    @property
    def whole(self) -> str | None:
        """The fingerprint of the model that it is of."""
        found = _dict(self.values.get("whole")).get("fingerprint")
        return found if isinstance(found, str) else None

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of part in each role."""
        return {role: kind for role, kind in _dict(self.values.get("parts")).items() if isinstance(kind, str)}

    @property
    def layers(self) -> tuple[int, int] | None:
        """Its first and last layer, numbered over the whole model."""
        match self.fact.get("layers"):
            case [int(first), int(last)]:
                return first, last
        return None

    def as_chunk(self, tensors: int) -> dict[str, Any]:
        """The node as the report shows it."""
        first, last = self.layers or (None, None)
        return {"file": self.place, "first_layer": first, "last_layer": last, "tensors": tensors}


def read_nodes(store: Store) -> list[Node]:
    """The certificates of a store that is several nodes; those that are missing are left out."""
    if store.folder is None or store.format not in ("nodes", "chunks"):
        return []
    there = store.folder.files()
    nodes = []
    for place in dict.fromkeys(place_of(store, file) for file in store.files):
        name = _certificate(place)
        if name in there:
            try:
                values = json.loads(store.folder.read(name, _LIMIT))
            except (ValueError, RecursionError):
                continue
            if isinstance(values, dict):
                nodes.append(Node(os.path.basename(place), values))
    return nodes


def place_of(store: Store, file: str) -> str:
    """The node that a file belongs to: its folder, or the file itself for chunks."""
    return file.split("/", maxsplit=1)[0] if store.format == "nodes" else file


def _certificate(place: str) -> str:
    stem, suffix = os.path.splitext(place)
    return f"{stem}.{CERTIFICATE}" if suffix else f"{place}/{CERTIFICATE}"


def joined_certificate(nodes: Sequence[Node]) -> dict[str, Any]:
    """What the certificates say together of the whole model."""
    joined: dict[str, Any] = {key: nodes[0].values.get(key) for key in ("schema", "family", "source", "hash")}
    for key in ("parts", "config", "init", "leaves"):
        joined[key] = {name: value for node in nodes for name, value in _dict(node.values.get(key)).items()}
    joined["allowed"] = list(
        dict.fromkeys(
            one for node in nodes for one in node.values.get("allowed") or () if isinstance(one, str)
        )
    )
    joined["fingerprint"] = nodes[0].whole
    joined["layout"] = nodes[0].values.get("layout")
    return joined


def node_findings(store: Store, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Why nodes do not fit together."""
    if not nodes:
        return
    places = list(dict.fromkeys(os.path.basename(place_of(store, file)) for file in store.files))
    bare = [place for place in places if place not in {node.place for node in nodes}]
    if bare:
        yield _error(f"{bare[0]} has no certificate and the other nodes have one", "split the model again")
    first = nodes[0]
    for node in nodes[1:]:
        if node.whole != first.whole:
            yield _error(
                f"{node.place} is of another model than {first.place}: fingerprint "
                f"{_short(node.whole)} against {_short(first.whole)}",
                "fetch all nodes from one run of `dovetail split`",
            )
    count = first.fact.get("of")
    indices = [node.fact.get("index") for node in nodes]
    if isinstance(count, int) and not bare:
        lost = [i for i in range(count) if i not in indices]
        if lost and store.format != "chunks":  # of which `lost_chunks` says more
            yield _error(
                f"{counted(len(lost), 'node')} of {count} not here: number {', '.join(map(str, lost))}",
                "put the folders of all nodes beside each other",
            )
        if len(set(indices)) < len(indices):
            yield _error("two folders are the same node", "keep one of them")


def _error(message: str, hint: str) -> Finding:
    return Finding(code="nodes", severity="error", message=message, hint=hint)


def _short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "none"


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def as_node(one: Explanation, node: Node) -> Explanation | None:
    """The explanation of a single node as a whole thing; None if it has not the leaves that it should."""
    leaves = set(_dict(node.values.get("leaves")))
    first = node.layers[0] if node.layers else 0
    shift = first - int(node.fact.get("numbered_from", first))
    if set(leaf_names(one, shift)) != leaves or one.num_unexplained:
        return None
    roles = {role: match._replace(lacks=(), missing_rows=0) for role, match in one.roles.items()}
    return one._replace(roles=roles, absent={})


def _node_note(node: Node) -> Finding:
    """Says that this is a node."""
    first, last = node.layers or (0, 0)
    index, of = node.fact.get("index"), node.fact.get("of")
    return Finding(
        code="node",
        severity="note",
        message=f"this is node {index} of {of}: layers {first} to {last} of the model {_short(node.whole)}",
        hint="`dovetail merge` puts all nodes together again",
    )


def as_of_node(
    config: Mapping[str, Value], findings: Sequence[Finding], one: Explanation, node: Node
) -> tuple[dict[str, Value], list[Finding]]:
    """Config and findings of a node, whose config describes more layers and whose head may be elsewhere."""
    names = [f"{role}.layers" for role in one.family.pipeline.spine]
    stamped = _dict(node.values.get("config"))
    values = dict(config)
    for name in names:
        said = _dict(stamped.get(name)).get("value")
        if isinstance(said, int):
            values[name] = Value(said, "stamp", f"{CERTIFICATE}: config.{name}")
    kept = [
        finding
        for finding in findings
        if finding.code not in ("tie-flag", "same-layouts")
        and not (
            finding.code.endswith(("-conflict", "overruled"))
            and any(name in finding.message for name in names)
        )
    ]
    return values, [*kept, _node_note(node)]
