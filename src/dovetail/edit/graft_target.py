"""The model that a graft makes: a config here or elsewhere, or a published size, and what is said of it."""

import os
from collections.abc import Mapping
from typing import Any

from dovetail.checkpoint import opened
from dovetail.declare.family import Family
from dovetail.edit.settings import sorted_out
from dovetail.errors import DovetailError, UsageError, suggestion
from dovetail.explain.documents import Documents, config_documents
from dovetail.explain.variant import VARIANT
from dovetail.explain.wanted import family_of
from dovetail.families import all_families, family
from dovetail.store.open import located, shown_path


def target_of(
    config: str, given: Mapping[str, Any]
) -> tuple[Family, Documents, Mapping[str, int | str] | None]:
    """The family to build, what is said about it, and its published sizes if these were asked for.

    A family alone says no sizes: they are those of the donors.

    Raises:
        UsageError: there is no such model, or what is given is nothing of it.
        CheckpointError: its config cannot be read.
        RemoteError: a server did not give it.
    """
    if is_place(config):
        documents = config_documents(*located(config))
        known = _shown_by_weights(config) if documents.model_type is None else None
        one = known or family_of(documents, all_families(), shown_path(config))
        return one, documents._replace(given=_said(one, given)), None
    id, _, size = config.partition("/")
    if id not in {one.id for one in all_families()}:
        raise UsageError(
            f"`{config}` is no file, and no family is called `{id}`",
            hint="give a config.json, a folder with one, hf://owner/name, FAMILY/SIZE as in qwen2_vl/2b, or "
            "FAMILY, whose sizes are then those of the donors",
        )
    one = family(id)
    if not size:
        return one, Documents(given=_said(one, given)), None
    if size not in one.sizes:
        raise UsageError(
            f"`{config}` is no file, and {id} has no published size `{size}`",
            hint=suggestion(
                config,
                published := [f"{one.id}/{name}" for name in one.sizes],
                f"published sizes: {', '.join(published)}",
            ),
        )
    return one, Documents(given=_said(one, given)), one.sizes[size]


def _shown_by_weights(place: str) -> Family | None:
    """The family of the weights beside a config that names none, as openpi's does not."""
    try:
        with opened(place) as found:
            return found.family if found.is_known else None
    except DovetailError:
        return None


def _said(one: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the new model, by full names.

    Raises:
        UsageError: the family has no such size, setting or variant.
    """
    told = sorted_out(one, given)
    if told.dtype is not None:
        raise UsageError("the dtype of a graft is no setting", hint=f"give --dtype {told.dtype}")
    return {**told.sizes, **told.settings, **({VARIANT: told.variant} if told.variant else {})}


def is_place(config: str) -> bool:
    """Whether the target is a file or a folder, here or elsewhere, and no published size."""
    return "://" in config or os.path.exists(config)
