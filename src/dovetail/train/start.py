"""What a training begins with: a checkpoint as it is, or one put together from a backbone and other parts.

A model that is put together is a graft: its account names what every parameter comes from, what begins
random is tagged for as long as the model lives, and the vision tower is never random.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from dovetail.checkpoint import Checkpoint, opened
from dovetail.declare.family import Family
from dovetail.edit.conversion import Conversion
from dovetail.edit.graft import Filling, Graft, opened_graft
from dovetail.edit.graft_donated import donor_of
from dovetail.errors import UsageError, listed
from dovetail.explain.variant import VARIANT
from dovetail.families import all_families, family
from dovetail.train.recipe import Recipe

DEFAULT_TARGET = "llava_onevision"
AUTO = "auto"


class Assembly(NamedTuple):
    """The donors of a model to put together, what it becomes, and values that are said of it."""

    donors: tuple[str, ...]
    target: str
    given: Mapping[str, Any]


def check_start(recipe: Recipe) -> None:
    """Refuses a recipe that does not say what training begins with.

    Raises:
        UsageError: it is such a recipe.
    """
    if recipe.init_from_backbone and recipe.backbone is None:
        raise UsageError("there is no backbone to begin from", hint="give --backbone CKPT, a language model")
    if not recipe.init_from_backbone:
        for name, given in {
            "--backbone": recipe.backbone,
            "--vision-tower": recipe.vision_tower,
            "--projector": recipe.projector,
            "--config": recipe.target,
        }.items():
            if given is not None:
                raise UsageError(
                    f"{name} is a part of a model that is put together",
                    hint="give --init-from-backbone too, or give a whole model as --model CKPT alone",
                )
        if recipe.model is None:
            raise UsageError(
                "nothing says which model to train",
                hint="give --model CKPT, or --backbone CKPT --vision-tower CKPT --init-from-backbone",
            )


@contextmanager
def opened_assembly(recipe: Recipe) -> Iterator[Graft]:
    """The model that a recipe puts together, planned, with the account of both sides.

    Raises:
        CheckpointError: a donor is damaged or of no known family.
        UsageError: the new model is not known, has sizes that nothing says, or would begin with a random
            tower.
    """
    made = _assembly(recipe)
    if "/" not in made.target and made.target in {one.id for one in all_families()}:
        _check_towers(family(made.target), made.donors, recipe.trust)
    filling = Filling(seed=int(recipe.arguments.get("seed", 42)))
    with opened_graft(
        made.donors, made.target, filling=filling, asked=Conversion(), given=made.given, trust=recipe.trust
    ) as graft:
        _check_tower(graft)
        yield graft


def _assembly(recipe: Recipe) -> Assembly:
    """The donors in the order in which they are asked: the backbone for the language model comes first."""
    parts = (recipe.backbone, recipe.vision_tower, recipe.projector, recipe.model)
    donors = tuple(os.fspath(one) for one in parts if one is not None)
    target = recipe.target or (os.fspath(recipe.model) if recipe.model is not None else DEFAULT_TARGET)
    given = dict(recipe.settings)
    if recipe.variant != AUTO:
        given[VARIANT] = recipe.variant
    return Assembly(donors, target, given)


def _check_towers(one: Family, donors: Sequence[str], trust: str | None) -> None:
    """Refuses a new model whose tower no donor has: nothing says its sizes, and it would begin random."""
    with ExitStack() as stack:
        found = [stack.enter_context(opened(path, trust=trust, to_be="used")) for path in donors]
        for role, parts in one.parts.items():
            if parts[0].purpose == "tower" and donor_of(one, role, found) is None:
                raise _no_tower(one.id, role)


def _no_tower(id: str, role: str) -> UsageError:
    return UsageError(
        f"no donor has the {role} of {id}: it would begin random",
        hint="give --vision-tower CKPT, a tower or a model with one",
    )


def _check_tower(graft: Graft) -> None:
    """Refuses a tower that no donor has."""
    family = graft.plan.family
    for row in graft.rows:
        is_tower = row.part in family.parts and family.parts[row.part][0].purpose == "tower"
        if row.side == "target" and is_tower and row.fate == "fresh":
            raise _no_tower(family.id, row.part)


def settings_of(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Any]:
    """What `load` is told of the checkpoint: the settings, and the variant that `--variant` makes it.

    Raises:
        UsageError: it is of another variant and nothing says to re-type it, or its family has none.
    """
    said = dict(recipe.settings)
    variants = tuple(dict.fromkeys(checkpoint.family.variants.values())) if checkpoint.is_known else ()
    check_variant(recipe.variant, variants, checkpoint.report.family or "this model")
    if recipe.variant == AUTO or not variants:
        return said
    found = checkpoint.report.config.get(VARIANT)
    is_other = found is not None and found.value != recipe.variant
    if is_other and found is not None and not recipe.force:
        raise other_variant(recipe.variant, found.value, found.evidence, checkpoint.report.path)
    return {**said, VARIANT: recipe.variant}


def check_variant(variant: str, variants: Sequence[str], called: str) -> None:
    """Refuses a variant that the family does not have; a family without any is `base`.

    Raises:
        UsageError: it has no such variant.
    """
    if variant in (AUTO, *variants) or (variant == "base" and not variants):
        return
    hint = f"it is one of: {listed(variants)}" if variants else "leave --variant out: it has one schedule"
    raise UsageError(f"{called} has no variant `{variant}`", hint=hint)


def other_variant(asked: str, found: Any, evidence: str, path: str) -> UsageError:
    """The error of a checkpoint of another variant than was asked for."""
    return UsageError(
        f"the variant is {found or 'not said'}, and --variant says {asked}",
        checkpoint=path,
        evidence=evidence,
        hint=f"--force trains it as {asked}: the tensors are the same, only the masks of the layers change; "
        "or leave --variant out",
    )
