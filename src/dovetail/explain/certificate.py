"""Whether the certificate beside a checkpoint is about this checkpoint: family, leaves, dtypes and shapes.

Only headers are compared; `compare/recheck.py` hashes the values again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dovetail.errors import DovetailError, listed
from dovetail.explain.detect import Explanation
from dovetail.explain.documents import Document, Documents
from dovetail.explain.leaves import leaf_headers, leaf_names
from dovetail.explain.sizes import Inference
from dovetail.explain.trust import overruled
from dovetail.names import star
from dovetail.report import Finding, counted
from dovetail.store.store import Store

# name -> `BF16 [28, 64]`, or nothing where the input does not say it
Headers = Mapping[str, str]


def leaf_table(headers: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, str]:
    """Dtype and shape of leaves, one line for all that differ in indices only and are alike.

    >>> leaf_table({"a.0.w": ("F32", (2, 3)), "a.1.w": ("F32", (2, 3)), "b": ("F16", (5,))})
    {'a.*.w': 'F32 [2, 3]', 'b': 'F16 [5]'}
    """
    groups: dict[str, dict[str, str]] = {}
    for name, (dtype, shape) in headers.items():
        groups.setdefault(star(name), {})[name] = f"{dtype} {list(shape)}"
    table: dict[str, str] = {}
    for key, named in groups.items():
        said = set(named.values())
        table |= {key: said.pop()} if len(said) == 1 else named
    return table


def is_about(stamp: Document) -> bool:
    """Whether a stamp lists the leaves that it is about; one written by hand need not."""
    return isinstance(stamp.values.get("leaves"), dict) and bool(stamp.values["leaves"])


def certificate_findings(
    stamp: Document, one: Explanation, inference: Inference, store: Store
) -> Iterator[Finding]:
    """What the certificate says otherwise than the file.

    After an `other-certificate` nothing that it says can be used.
    """
    family = stamp.values.get("family")
    is_foreign = isinstance(family, str) and family != one.family.id
    families = f"it is about {family}, the tensors are {one.family.id}"
    if not is_about(stamp):
        if is_foreign:
            yield _other(stamp, families)
        return
    here = _headers(one, inference, store)
    causes, count = _causes(stamp, here)
    if 2 * count > len(here):
        yield _other(stamp, "; ".join([families, *causes] if is_foreign else causes))
    elif causes:
        yield Finding(
            code="certificate-leaves",
            severity="error",
            message=f"{stamp.name} does not fit the file: {'; '.join(causes)}",
            hint="the file was changed by a tool that does not know the certificate; "
            "`--trust weights` goes on with what is here, `dovetail stamp --trust weights` writes it anew",
        )


def held_against(
    documents: Documents, one: Explanation, inference: Inference, store: Store
) -> tuple[list[Finding], Documents]:
    """What the certificate says otherwise than the file, and the documents without one that is of no use.

    Whoever trusts another side goes on without what it says.
    """
    if documents.stamp is None or documents.node is not None:
        return [], documents
    found = list(certificate_findings(documents.stamp, one, inference, store))
    if any(finding.code == "other-certificate" for finding in found):
        documents = documents._replace(stamp=None)
    if documents.trust not in (None, "stamp"):
        found = [overruled(finding, documents.trust) for finding in found]
    return found, documents


def _causes(stamp: Document, here: Headers) -> tuple[list[str], int]:
    """What does not fit, in words, and how many leaves that is."""
    there: Mapping[str, Any] = stamp.values["leaves"]
    shapes = stamp.values.get("leaf_table")
    table: Mapping[str, Any] = shapes if isinstance(shapes, dict) else {}
    lost = [name for name in there if name not in here]
    more = [name for name in here if name not in there]
    unlike = [name for name, text in here.items() if (said := _said(table, name)) and text and said != text]
    causes = []
    if lost:
        causes.append(f"{counted(len(lost), 'tensor')} of it not here: {_sample(lost)}")
    if more:
        causes.append(f"{counted(len(more), 'tensor')} here and not in it: {_sample(more)}")
    if unlike:
        first = unlike[0]
        others = f" (and {len(unlike) - 1} more)" if len(unlike) > 1 else ""
        causes.append(f"`{first}`{others} is {here[first]} here and {_said(table, first)} in it")
    return causes, len({*lost, *more, *unlike})


def _other(stamp: Document, why: str) -> Finding:
    return Finding(
        code="other-certificate",
        severity="error",
        message=f"{stamp.name} is the certificate of another checkpoint: {why}",
        hint=f"remove {stamp.name}, or put the right one there; `--trust weights` goes on without it, "
        "`dovetail stamp --trust weights` writes it anew",
    )


def _headers(one: Explanation, inference: Inference, store: Store) -> Headers:
    """Dtype and shape of every leaf here, "" where that is not known."""
    try:
        headers = leaf_headers(one, inference, store)
    except DovetailError:
        return dict.fromkeys(leaf_names(one), "")
    return {name: f"{dtype} {list(shape)}" for name, (dtype, shape) in headers.items()}


def _said(table: Mapping[str, Any], name: str) -> str:
    text = table.get(name, table.get(star(name)))
    return text if isinstance(text, str) else ""


def _sample(names: list[str]) -> str:
    return listed([f"`{name}`" for name in names], 2)
