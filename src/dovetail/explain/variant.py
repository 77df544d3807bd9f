"""Which variant of a family a checkpoint is, where several have the same tensors: what documents say."""

from dovetail.declare.family import Family
from dovetail.errors import listed
from dovetail.explain.documents import Documents, Found
from dovetail.explain.trust import judged
from dovetail.report import Finding, Value

VARIANT = "variant"


def variant_of(family: Family, documents: Documents) -> tuple[Value, list[Finding]]:
    """The variant of a family that has several, and what is said otherwise."""
    known = list(dict.fromkeys(family.variants.values()))
    said = documents.said(VARIANT, (), ())
    named = documents.type_named
    if named is not None and named.value in family.variants:
        place = f"{named.key} = {named.value}"
        said = documents.ranked([*said, Found(family.variants[named.value], named.document, place)])
    fitting = [one for one in said if one.value in known]
    findings = [_unknown(one, known) for one in said if one not in fitting]
    if not fitting:
        why = "every variant has the same tensors; a config's model_type decides"
        return Value(None, "undetermined", why), findings
    first, *others = fitting
    findings += [_two(first, one, documents) for one in others if one.value != first.value]
    evidence = first.key if first.side == "config" else first.place
    return Value(first.value, first.source, evidence), findings


def _two(kept: Found, found: Found, documents: Documents) -> Finding:
    finding = Finding(
        code=f"{found.side}-conflict",
        severity="error",
        message=f"the variant is {kept.value} in {kept.place} and {found.value} in {found.place}",
    )
    return judged(finding, kept=kept.side, found=found, documents=documents)


def _unknown(found: Found, known: list[str]) -> Finding:
    return Finding(
        code=f"{found.side}-conflict",
        severity="error",
        message=f"the variant cannot be {found.value!r} as {found.place} says",
        hint=f"it is one of: {listed(known)}",
    )
