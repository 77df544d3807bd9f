"""Optional tensors that a config grants with a word of its own: `attention_bias`, `mlp_bias`.

The tensors show whether they are there. A config that says otherwise, or is silent, makes its readers build
a model without them, or with new ones.
"""

from collections.abc import Iterator

from dovetail.declare.part import Part
from dovetail.explain.documents import Documents, Found
from dovetail.explain.match import PartMatch
from dovetail.explain.trust import judged
from dovetail.report import Finding, Value


def flag_values(
    role: str, match: PartMatch, roots: tuple[str, ...], documents: Documents
) -> tuple[dict[str, Value], list[Finding]]:
    """Which of the features are there, by `role.key`, and what says otherwise; of those that are not there
    only the ones that something speaks of."""
    values: dict[str, Value] = {}
    findings: list[Finding] = []
    for feature, key in match.part.facts.flags.items():
        first = _first(match, feature) if feature in match.features else None
        wrong = list(
            wrong_flags(role, match.part, key, is_here=bool(first), roots=roots, documents=documents)
        )
        shown = f"there (`{first}`)" if first else "not there"
        if first or wrong:
            evidence = f"`{first}`" if first else "no tensor of them"
            values[f"{role}.{key}"] = Value(first is not None, "weights", evidence)
        for found in wrong:
            finding = Finding(
                code=f"{found.side}-conflict",
                severity="error",
                part=role,
                message=f"the {key} tensors of {role} are {shown}, and {found.place} is {_word(found)}",
                tensors=(first,) if first else (),
            )
            findings.append(judged(finding, kept="weights", found=found, documents=documents))
    return values, findings


def wrong_flags(
    role: str, part: Part, key: str, *, is_here: bool, roots: tuple[str, ...], documents: Documents
) -> Iterator[Found]:
    """What is said of a feature otherwise than the tensors show; a silent config of transformers says no."""
    said = documents.said(f"{role}.{key}", (key,), roots)
    yield from (found for found in said if (found.value is True) != is_here)
    named = documents.type_named
    width = documents.find(part.facts.spellings.get("d_model", ()), roots)
    if (
        is_here
        and not any(found.side == "config" for found in said)
        and named is not None
        and named.key == "model_type"
        and width is not None
        and width.document == named.document
    ):
        section = width.key.rpartition(".")[0]
        yield Found(None, named.document, f"{section}.{key}".lstrip("."))


def _word(found: Found) -> str:
    """What is said, as the file has it."""
    return "not said, which is false" if found.value is None else str(found.value).lower()


def _first(match: PartMatch, feature: str) -> str:
    """The first tensor of a feature."""
    rows = (row for row in match.rows if match.part.leaves[row.row.leaves[0]].feature == feature)
    return next(name for row in rows for name in row.tensors.values())
