"""What configs say otherwise than what counts: what whoever writes them puts right, and says so."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dovetail.declare.family import Family
from dovetail.declare.part import Part
from dovetail.declare.spelling import keys_of
from dovetail.explain.accounts import tie_flags
from dovetail.explain.documents import Documents, Found
from dovetail.explain.flags import wrong_flags
from dovetail.explain.variant import VARIANT
from dovetail.report import Tie, Value

Config = Mapping[str, Value]


class Correction(NamedTuple):
    """A statement of a config that does not count, and what does."""

    found: Found
    value: Any

    def __str__(self) -> str:
        was = "not said" if self.found.value is None else self.found.value
        return f"{self.found.place} was {was}, is {self.value}"


def corrections(
    family: Family,
    kinds: Mapping[str, Part],
    documents: Documents,
    config: Config,
    *,
    ties: Iterable[Tie] = (),
) -> list[Correction]:
    """Every statement of a config that does not count: of sizes, settings, kinds, ties, the variant."""
    found: list[Correction] = []
    for role, part in kinds.items():
        roots = family.config.roots.get(role, ("",))
        found += _of_part(role, part, roots, documents, config)
        found += _of_kind(family.parts[role], part, roots, documents)
    for setting in family.settings:
        found += _of_setting(setting.name, setting.spellings, ("",), documents, config)
    for tie in ties:
        if tie.flag is None and not tie.is_stored:
            flags = tie_flags(family, tie.leaf, documents)
            found += [Correction(flag, True) for flag in flags if flag.value is False]
    named, known = documents.type_named, config.get(VARIANT)
    if named and known and family.variants.get(named.value) not in (None, known.value):
        found.append(Correction(named, model_type_of(family, named.value, known.value)))
    return list({each.found.place: each for each in found}.values())


def set_aside(wrong: Iterable[Correction]) -> dict[str, Any]:
    """The statements that a certificate says do not count, by their places."""
    return {one.found.place: one.found.value for one in wrong}


def _of_part(
    role: str, part: Part, roots: tuple[str, ...], documents: Documents, config: Config
) -> Iterator[Correction]:
    """Sizes: whoever says another is wrong. What stands there as a product cannot be put right by itself."""
    facts = part.facts
    for dim in part.dims:
        known = config.get(f"{role}.{dim}")
        if dim == "vocab" or known is None or known.source not in ("weights", "stamp"):
            continue
        for found in documents.find_all(facts.spellings.get(dim, ()), roots):
            if found.value != known.value and keys_of(found.key) == (found.key,):
                yield Correction(found, known.value)
    for rule in facts.derived:
        sizes = {dim: config[f"{role}.{dim}"].value for dim in rule.needs}
        for found in () if None in sizes.values() else documents.find_all(rule.spellings, roots):
            if not rule.agrees(found.value, sizes):
                yield Correction(found, config[f"{role}.{rule.name}"].value)
    for key in facts.flags.values():
        if (known := config.get(f"{role}.{key}")) and known.source == "weights":
            wrong = wrong_flags(role, part, key, is_here=known.value, roots=roots, documents=documents)
            yield from (Correction(found, known.value) for found in wrong if found.side == "config")
    for setting in facts.settings:
        yield from _of_setting(f"{role}.{setting.name}", setting.spellings, roots, documents, config)


def _of_setting(
    name: str, spellings: tuple[str, ...], roots: tuple[str, ...], documents: Documents, config: Config
) -> Iterator[Correction]:
    """What no weight shows, where the caller or the certificate says it."""
    known, found = config.get(name), documents.find(spellings, roots)
    if known and found and known.source == "stamp" and found.value != known.value:
        yield Correction(found, known.value)


def _of_kind(
    kinds: tuple[Part, ...], part: Part, roots: tuple[str, ...], documents: Documents
) -> Iterator[Correction]:
    for found, named in documents.named_kinds(kinds, roots):
        if part.facts.named_by and not any(one.id == part.id for one in named):
            yield Correction(found, part.facts.named_by[-1])


def model_type_of(family: Family, said: str, variant: str | None) -> str:
    """The `model_type` of a variant: of several, the one that begins as what is said now; else that."""
    types = [type for type, named in family.variants.items() if named == variant]
    alike = [type for type in types if said.startswith(type) or type.startswith(said)]
    return (alike or types or [said])[0]
