"""The same random weights in every layout of a family, loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dovetail.edit.make import make
from dovetail.families import family
from dovetail.loading.load import load
from files import header_of, plan_of


def every_layout(
    id: str, sizes: Mapping[str, int | str], folder: Path, **options: Any
) -> Iterator[tuple[str, Any]]:
    """Each layout that has a place for the whole model, and what `load` makes of a checkpoint in it."""
    plan = plan_of(id, sizes)
    usual = {
        name for name in next(iter(family(id).sizes.values()), {}) if "." not in name
    }  # as `make` fills in
    for layout in family(id).layouts:
        roles = set(layout.mounts)
        if {*plan.kinds, *usual} <= roles and header_of(plan, layout.id):
            make(id, folder / layout.id, layout=layout.id, set=sizes, dtype="float32", seed=5)
            yield layout.id, load(folder / layout.id, as_=f"{id}/{layout.id}", **options)
