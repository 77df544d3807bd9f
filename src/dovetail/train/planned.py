"""The plan of a recipe: of a checkpoint, of a config alone, or of a model that is to be put together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dovetail.checkpoint import Checkpoint, opened
from dovetail.edit.graft import checked
from dovetail.edit.graft_target import target_of
from dovetail.errors import UsageError
from dovetail.explain.variant import VARIANT
from dovetail.explain.wanted import described
from dovetail.train.plan import LORA, TrainPlan, plan_of_checkpoint, plan_of_model
from dovetail.train.recipe import Recipe
from dovetail.train.start import (
    AUTO,
    check_start,
    check_variant,
    opened_assembly,
    other_variant,
    settings_of,
)

_CONFIG = "config.json"
_HEADERS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".index.json")


def planned(recipe: Recipe) -> TrainPlan:
    """What a training would do, from headers alone.

    Raises:
        CheckpointError: the checkpoint is not whole, or parts do not fit each other.
        UsageError: nothing says what to begin with, the variant is another, or a word names no part.
        RemoteError: a server did not give what was asked for.
    """
    check_start(recipe)
    if recipe.merge and LORA not in recipe.tune:
        raise UsageError(
            "there is nothing to merge: saves are whole models", hint="--merge is for --tune lora"
        )
    if recipe.init_from_backbone:
        with opened_assembly(recipe) as graft:
            plan = checked(graft)
            fresh = [row.template for row in graft.rows if row.side == "target" and row.fate == "fresh"]
            return plan_of_model(recipe, graft.model, begins=plan.source, fresh=fresh, has_weights=True)
    assert recipe.model is not None
    if is_config_alone(recipe.model):
        return _of_config(recipe)
    with opened_model(recipe) as checkpoint:
        return plan_of_checkpoint(recipe, checkpoint)


@contextmanager
def opened_model(recipe: Recipe) -> Iterator[Checkpoint]:
    """The checkpoint of a recipe that is trained as it is, as the variant that was asked for.

    Raises:
        CheckpointError: it is damaged, or of no known family.
        UsageError: it is of another variant, and nothing says to re-type it.
    """
    assert recipe.model is not None
    with opened(recipe.model, given=recipe.settings, trust=recipe.trust, to_be="trained") as found:
        said = settings_of(recipe, found)
        if said == dict(recipe.settings):
            yield found
            return
    with opened(recipe.model, given=said, trust=recipe.trust, to_be="trained") as found:
        yield found


def is_config_alone(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a config.json, or a folder that holds one and no weights."""
    text = os.fspath(path)
    if os.path.isdir(text):
        names = os.listdir(text)
        return _CONFIG in names and not any(name.endswith(_HEADERS) for name in names)
    return os.path.basename(text) == _CONFIG


def _of_config(recipe: Recipe) -> TrainPlan:
    """The plan of a config alone."""
    path = os.fspath(recipe.model or "")
    family, documents, published = target_of(path, recipe.settings)
    model = described(family, documents, donated={}, published=published)
    check_variant(recipe.variant, tuple(dict.fromkeys(family.variants.values())), family.id)
    found = model.config.get(VARIANT)
    if found is not None and recipe.variant not in (AUTO, found.value):
        if not recipe.force:
            raise other_variant(recipe.variant, found.value, found.evidence, path)
        typed = found._replace(value=recipe.variant, evidence="--variant")
        model = model._replace(config={**model.config, VARIANT: typed})
    return plan_of_model(recipe, model, begins=path)


def refuse_config_alone(recipe: Recipe) -> None:
    """Refuses to train what has no weights.

    Raises:
        UsageError: the model is a config alone.
    """
    if recipe.model is not None and not recipe.init_from_backbone and is_config_alone(recipe.model):
        raise UsageError(
            f"`{os.fspath(recipe.model)}` has a config and no weights",
            hint="--dry-run takes it; to train, give a checkpoint, or make one: `dovetail make`, `graft`",
        )
