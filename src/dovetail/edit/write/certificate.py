"""The certificate of a checkpoint, `dovetail.json` beside its weights: what it is, what is in it, and whence.

It holds the hash of every leaf, the fingerprint of the whole, the values that weights cannot show, and
a tag for each leaf that was not copied from trained weights; whoever reads it later carries the tags on.
"""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from dovetail import __version__
from dovetail.declare.family import Family
from dovetail.explain.certificate import leaf_table
from dovetail.explain.documents import STAMP, STAMP_SCHEMA
from dovetail.report import Value
from dovetail.store.content import ALGORITHM
from dovetail.weights.hashes import LeafContent, fingerprint
from dovetail.weights.leaf import Leaf

# Sources of values that may be written down: what was only assumed stays open.
_KNOWN = ("stamp", "weights", "config")


def certificate(
    *,
    family: Family,
    layout: str | Mapping[str, str] | None,
    parts: Mapping[str, str],
    leaves: Mapping[str, LeafContent],
    config: Mapping[str, Value],
    init: Mapping[str, str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The certificate as plain JSON values: `parts` are kinds by role, `init` tags what was not copied.

    It has no fingerprint if a leaf has no hash.
    """
    is_hashed = all(leaf.hash for leaf in leaves.values())
    return {
        "schema": STAMP_SCHEMA,
        "dovetail": __version__,
        "family": family.id,
        "layout": layout if isinstance(layout, str | None) else dict(layout),
        "fingerprint": fingerprint(family, leaves) if is_hashed else None,
        **facts,
        "parts": dict(parts),
        "config": {
            name: _with_source(value)
            for name, value in config.items()
            if value.source in _KNOWN and value.value is not None
        },
        "init": dict(init),
        "hash": ALGORITHM,
        "leaf_table": leaf_table({name: (leaf.dtype, leaf.shape) for name, leaf in leaves.items()}),
        "leaves": {name: leaf.hash for name, leaf in leaves.items()},
    }


def _with_source(value: Value) -> dict[str, Any]:
    """A value and whence it is; the weights that prove one are there to be asked again."""
    evidence = {} if value.source == "weights" else {"evidence": value.evidence}
    return {"value": value.value, "source": value.source, **evidence}


def certificate_name(weights: str | None = None) -> str:
    """The name of the certificate: of a folder, or of one weights file in it."""
    return STAMP if weights is None else f"{os.path.splitext(weights)[0]}.{STAMP}"


def as_text(values: Mapping[str, Any]) -> bytes:
    """Strict JSON with a line for each leaf and each value."""
    lines = [f"  {_json(key)}: {_entries(value)}" for key, value in values.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _entries(value: Any) -> str:
    """A dict over several lines, anything else on one."""
    if not isinstance(value, Mapping) or not value:
        return _json(value)
    return "{\n" + ",\n".join(f"    {_json(key)}: {_json(one)}" for key, one in value.items()) + "\n  }"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a pair of surrogates, which only an escape can spell
        return json.dumps(value, allow_nan=False)
    return text


def tagged(leaves: Iterable[Leaf]) -> dict[str, str]:
    """The leaves among leaves that were not simply copied."""
    return {one.name: one.init for one in leaves if one.init != "copied"}
