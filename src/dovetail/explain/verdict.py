"""The one sentence that a person reads first: what the file is, or what can be said of it.

It says who says so. A family is claimed because all of it is here, or because a config names it and nothing
else is here; a model whose config names what dovetail does not know is that, and no damaged one of ours. Only
what nothing names comes "closest" to something.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from dovetail.declare.family import Family
from dovetail.errors import listed
from dovetail.explain.detect import Detection, Explanation, unexplained, whole_elsewhere
from dovetail.explain.documents import Documents
from dovetail.explain.name_groups import Group, Inventory, top_modules
from dovetail.explain.strays import Sighting, find_parts
from dovetail.report import Closest, Finding, counted

_PURPOSES = {"decoder": "the decoder", "tower": "the tower", "connector": "the connector"}


class Verdict(NamedTuple):
    """What is said of a detection. `families` are all that are known; --as names one that `is_asserted`."""

    detection: Detection
    documents: Documents
    families: Callable[[], Iterable[Family]]
    is_asserted: bool = False

    @property
    def is_close(self) -> bool:
        """Whether the closest family is worth holding the file against.

        A claim and an assertion always are. Else a model that a config names is not, but where all of a named
        family is here; what nothing names must have more than half in common.
        """
        one = self.detection.closest
        if one is None or self.detection.claim is not None or self.is_asserted:
            return one is not None
        named = self.documents.named
        if named.model_type is not None and not (named.is_of(one.family) and one.is_whole):
            return False
        return _has_most(one)

    def title(self, here: Explanation | None = None, lost: Sequence[str] = ()) -> str:
        """The sentence of the whole: `Qwen2-VL`, `Qwen2-VL, 1 of 729 tensors missing`, `unknown: …`.

        `here` is a claim without the tensors of shards that are not here, `lost` are chunks that are not.
        """
        if (one := self.detection.claim) is not None and lost:
            return f"{one.family.title} without {listed(lost, 4)}"
        if one is not None:
            return ", ".join([one.family.title, *shortfall(here or one)])
        if self.is_asserted and self.detection.closest:
            return f"not {_id(self.detection.closest)}: {', '.join(shortfall(self.detection.closest))}"
        if self.candidates and self.is_close:
            return f"{_either(self.candidates)}: names and shapes cannot tell"
        if self.is_close and (one := self.detection.closest):
            close = f"nothing names it; {self._ids(one)} comes closest"
            return self._more_than(one) if one.is_whole else close
        said = self._lead()
        return f"unknown: {said}" if said else "unknown"

    @property
    def candidates(self) -> tuple[str, ...]:
        """The families that explain all of the file, if there are several."""
        one, rivals = self.detection.closest, self.detection.rivals
        if one is None or not one.is_whole or one.num_unexplained or not rivals:
            return ()
        return tuple(each.family.id for each in (one, *rivals))

    def closest(self) -> Closest | None:
        """What comes closest where nothing is claimed."""
        one = self.detection.closest
        if one is None or self.detection.claim is not None:
            return None
        fits = tuple(sighting.text for sighting in find_parts(one.inventory, self.families()))
        layout = one.layout if isinstance(one.layout, str) else None
        return Closest(one.family.id, layout, one.num_missing, one.num_unexplained, fits)

    def damage(self, closest: Closest | None) -> Iterator[Finding]:
        """That something is missing of the family that is claimed, or that comes closest."""
        one = self.detection.closest
        if one is None or one.is_whole:
            return
        if self.detection.claim is not None:
            named = self.documents.named
            by = "as --as says" if self.is_asserted else named.sentence or "its certificate says so"
            message = f"{self.title()} ({by})"
        else:
            numbers = shortfall(one)
            numbers += [f"whole in this file: {listed(closest.fits, 3)}"] if closest and closest.fits else []
            lead = f"--as says `{one.family.id}`" if self.is_asserted else "nothing names it"
            message = f"{lead}, and not all of {self._ids(one)} is here: {'; '.join(numbers)}"
        yield Finding(
            code="incomplete",
            severity="error",
            message=message,
            hint="the findings below say what is missing and what does not fit",
        )

    def of_families(self) -> Iterator[Finding]:
        """That two families fit alike, that there is more than the family, or that it is called another."""
        one, named = self.detection.closest, self.documents.named
        assert one is not None
        if self.candidates:
            yield self._same_families()
        elif self.detection.claim is None and one.is_whole and one.num_unexplained:
            yield self._larger_model(one)
        if self.detection.claim and named.is_against(one.family):
            yield Finding(
                code="config-family",
                severity="warning",
                message=f"{named.sentence}, and all tensors are those of {_id(one)}: it is read as that",
                hint=f"if {named.document} is right, dovetail may compute something else than that model",
            )

    def _same_families(self) -> Finding:
        ids = self.candidates
        given = f"give `validate --as {ids[0]}`"
        if self.documents.configs:
            hint = f"{self.documents.configs[0].name} has no model_type, which would decide; {given}"
        else:
            hint = f"put its config.json beside it (model_type decides), or {given}"
        return Finding(
            code="same-families",
            severity="error",
            message=f"names and shapes fit {' and '.join(ids)} alike",
            hint=hint,
        )

    def _larger_model(self, one: Explanation) -> Finding:
        named = self.documents.named
        said = f"{named.sentence}, and " if named.is_of(one.family) and named.model_type else ""
        return Finding(
            code="larger-model",
            severity="error",
            message=f"{said}{self._more_than(one)}: another model, or one with additions",
            hint=f"`dovetail validate --as {one.family.id}` holds it against {one.family.id} alone",
        )

    def _ids(self, one: Explanation) -> str:
        """`qwen2/hf`, or all families that are as close: `llama, mistral or gemma`."""
        ids = dict.fromkeys((one.family.id, *(each.family.id for each in self.detection.rivals)))
        return _either(ids) if len(ids) > 1 else _id(one)

    def _more_than(self, one: Explanation) -> str:
        count, where = one.num_unexplained, "inside its layers" if one.foreign_inside else "beside it"
        fit = "fits" if count == 1 else "fit"
        return f"all of {self._ids(one)} is here, and {counted(count, 'tensor')} {where} {fit} nothing in it"

    def _lead(self) -> str:
        """What the config says, and whether dovetail knows it."""
        named = self.documents.named
        if named.model_type is None:
            return ""
        known = [family for family in self.families() if named.is_of(family)]
        if not known:
            return f"{named.sentence}, which dovetail does not know"
        one = self.detection.closest
        if one is not None and one.is_whole and not one.num_unexplained:
            return f"{named.sentence}, and the tensors are those of {_id(one)}"
        return f"{named.sentence}, and the tensors are not in any layout of {known[0].id} that dovetail knows"

    def unknown(self, fits: list[Sighting]) -> Finding:
        """The sentence on a file of no known family: what is said, what is known in it, what is not."""
        inventory, one = self.detection.inventory, self.detection.closest
        lead = self._lead() or "no family that dovetail knows"
        if one is not None and one.is_whole and not one.num_unexplained:
            return self._all_explained(lead, one)
        rest = _unknown_groups(inventory, fits)
        modules = top_modules(rest)
        from dovetail.explain.traits import traits  # its many patterns are for what is not known

        seen = traits(inventory._replace(groups=rest))
        known = [f"{_PURPOSES.get(one.part.purpose, 'a part')} fits {one.text}" for one in fits]
        foreign = [
            f"`{module.prefix}.*` ({counted(module.size, 'tensor')})"
            if module.size > 1
            else f"`{module.first}`"
            for module in modules
        ]
        said = [
            *([listed(known, 4)] if known else []),
            *(
                [f"seen in the rest: {listed(seen, 8)}" if known else f"seen: {listed(seen, 8)}"]
                if seen
                else []
            ),
            *([f"nothing known fits {listed(foreign, 4)}"] if foreign else []),
        ]
        return Finding(
            code="unknown-family",
            severity="error",
            message=f"{lead}: {'; '.join(said)}",
            tensors=tuple(module.first for module in modules),
            hint="`dovetail families` lists what is known; docs/guides/family.md shows how to add one",
        )

    def _all_explained(self, lead: str, one: Explanation) -> Finding:
        ids = _either(dict.fromkeys((one.family.id, *(each.family.id for each in self.detection.rivals))))
        return Finding(
            code="unknown-family",
            severity="error",
            message=f"{lead}; every tensor has its place in {ids}, but names and shapes do not show whether "
            "it computes the same",
            hint=f"if it does, `--as {one.family.id}` reads it as that",
        )


def shortfall(one: Explanation) -> list[str]:
    """What is missing, elsewhere or too much: `1 of 729 tensors missing`, `all of vision missing`."""
    missing = sum(match.num_missing for match in one.roles.values())
    here = sum(len(row.tensors) for match in one.roles.values() for row in match.rows)
    moved = whole_elsewhere(one)
    absent = [role for role in one.absent if role not in moved]
    foreign = len(unexplained(one))
    fit = "fits" if foreign == 1 else "fit"
    return [
        *([f"{missing:,} of {counted(here + missing, 'tensor')} missing"] if missing else []),
        *([f"all of {' and '.join(absent)} missing"] if absent else []),
        *(f"{role} under an unknown prefix" for role in moved),
        *([f"{counted(foreign, 'tensor')} {fit} nothing in it"] if foreign else []),
    ]


def _either(words: Iterable[str]) -> str:
    """`llama, mistral or gemma`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _unknown_groups(inventory: Inventory, fits: Iterable[Sighting]) -> dict[str, Group]:
    """The groups that are of no known part; the head of a decoder that is known is its own."""
    explained = {name for sighting in fits for name in sighting.match.claimed()}
    has_decoder = any(sighting.part.purpose == "decoder" for sighting in fits)
    return {
        key: group
        for key, group in inventory.groups.items()
        if not explained.issuperset(group.names)
        and not (has_decoder and f".{key}".endswith(".lm_head.weight"))
    }


def _id(one: Explanation) -> str:
    return f"{one.family.id}/{one.layout}" if isinstance(one.layout, str) else one.family.id


def _has_most(one: Explanation) -> bool:
    claimed = one.num_claimed
    missing = sum(match.num_missing for match in one.roles.values())
    whole = sum(match.is_complete for match in one.roles.values())
    total = one.inventory.size
    is_most = claimed * 2 >= total
    if len(one.absent) >= len(one.roles):
        return False
    is_most_parts = whole * 2 > len(one.roles) + len(one.absent) and claimed * 5 >= total
    return missing * 2 <= claimed and (is_most or is_most_parts)


EMPTY = Finding(
    code="empty",
    severity="error",
    message="there is not one tensor in it",
    hint="this is a placeholder, not a checkpoint",
)
