"""`--for READER`: which layout of a family a program reads, and whether it can build the model at all."""

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from dovetail.checkpoint import Checkpoint
from dovetail.declare.family import Family, Layout
from dovetail.declare.reader import Asked, Reader, Version, is_read_by, name_of, parse_asked, parse_version
from dovetail.edit.side_files.config_files import CONFIG, planned
from dovetail.errors import UsageError, listed
from dovetail.families.readers import READERS, UNBUILT
from dovetail.weights.lay_out import OutputTensor


class Reading(NamedTuple):
    """A program in one version, None where it has none, and the layout that it reads."""

    reader: Reader
    version: Version | None
    layout: Layout

    @property
    def title(self) -> str:
        """`transformers 4.57`."""
        return " ".join([self.reader.name, *([".".join(map(str, self.version))] if self.version else [])])


def reading(family: Family, text: str, *, to: Layout | None = None, format: str | None = None) -> Reading:
    """The layout that the reader of `transformers==4.57` reads, in the newest version if none is said.

    `to` is the layout that is to be it, `format` the kind of container.

    Raises:
        UsageError: there is no such reader, it reads no layout of the family, or not this one.
    """
    asked = parse_asked(text)
    known = {reader.name: reader for reader in READERS}
    if asked.name not in known:
        near = get_close_matches(asked.name, known, 1)
        raise UsageError(
            f"no reader is called `{asked.name}`" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"readers: {', '.join(known)}",
        )
    reader = known[asked.name]
    if asked.version is None and reader.versions:
        asked = Asked(asked.name, parse_version(reader.versions[-1]))
    found = [one for one in family.layouts if one.is_writable and _reads(one, asked)]
    if to is not None and found and to.id not in {one.id for one in found}:
        raise UsageError(
            f"{_spoken(asked)} does not read layout {to.id} of {family.id}",
            hint=f"it reads {listed([one.id for one in found])}: leave --to out",
        )
    if not found:
        raise UsageError(
            f"{family.id} has no layout that {_spoken(asked)} reads",
            hint=_untried(family, asked) + _offers(family),
        )
    layout = to or found[0]
    if format is not None and format not in reader.formats:
        raise UsageError(
            f"{reader.name} does not read {format} files", hint=f"it reads {listed(reader.formats)}"
        )
    return Reading(reader, asked.version, layout)


def check_reading(source: Checkpoint, chosen: Reading, without: Collection[str]) -> None:
    """Refuses a model that the reader would not build whole.

    Raises:
        UsageError: a part would begin at random, or the reader builds no model of this kind or size.
    """
    family, title = source.family, chosen.title
    optional = {*family.optional, *chosen.layout.optional}
    missing = [role for role in family.parts if role not in {*source.kinds, *optional}]
    if lost := [*missing, *(role for role in without if role not in optional)]:
        raise UsageError(
            f"{title} would begin {listed(lost)} at random: this checkpoint has no such part",
            hint="graft it from a donor first, or name the layout with --to instead of a reader",
        )
    variant = family.variants.get(source.documents.model_type or "", "base")
    if variant != "base" and chosen.layout.dialect is None:
        raise UsageError(
            f"{title} does not compute the variant `{variant}` of {family.id}",
            hint=_offers(family),
        )
    for role, match in source.explanation.roles.items():
        unbuilt = UNBUILT.get((chosen.reader.name, match.part.id), ())
        if lost := [one for one in match.features if one in unbuilt]:
            raise UsageError(
                f"{title} cannot build this model: it has no {listed(lost)} in a {match.part.id} ({role})",
                hint=f"--to {chosen.layout.id} writes it all the same",
            )
    dialect = chosen.layout.dialect
    if dialect is not None and (why := dialect.limit(planned(source, source.report.config, CONFIG))):
        raise UsageError(
            f"{title} cannot build this model: {why}",
            hint=f"--to {chosen.layout.id} writes it all the same, for dovetail",
        )


def doubled(tensors: Sequence[OutputTensor], chosen: Reading | None) -> list[OutputTensor]:
    """The same and, for a reader that looks for all names of a tensor, a copy under each further name."""
    asked = Asked(chosen.reader.name, chosen.version) if chosen else None
    if chosen is None or not any(is_read_by(one, asked) for one in chosen.layout.doubled_for if asked):
        return list(tensors)
    second = chosen.layout.second_names
    return [*tensors, *(one._replace(name=second[one.name]) for one in tensors if one.name in second)]


def _reads(layout: Layout, asked: Asked) -> bool:
    return any(is_read_by(one, asked) for one in layout.readers)


def _untried(family: Family, asked: Asked) -> str:
    """That a layout has the names of this version, but nobody tried."""
    for one in family.layouts:
        if any(is_read_by(of, asked) for of in one.untried):
            return f"--to {one.id} writes its names, but no test here runs such a version; "
    return ""


def _spoken(asked: Asked) -> str:
    return " ".join([asked.name, *([".".join(map(str, asked.version))] if asked.version else [])])


def _offers(family: Family) -> str:
    offers = [f"{reader} ({layout})" for reader, layout in _first_of_each(family)]
    return (
        f"{family.id} can be written for {listed(offers, 8)}"
        if offers
        else f"no reader of {family.id} is known"
    )


def _first_of_each(family: Family) -> Iterator[tuple[str, str]]:
    """Each reader once, as its layout names it."""
    seen = set()
    for layout in family.layouts:
        for one in layout.readers if layout.is_writable else ():
            if name_of(one) not in seen:
                seen.add(name_of(one))
                yield one, layout.id
