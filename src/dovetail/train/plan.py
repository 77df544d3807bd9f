"""What a training would do to each part of a model, and what it takes in memory: from the header alone."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from dovetail.checkpoint import Checkpoint
from dovetail.declare.family import Family
from dovetail.dtypes import BITS
from dovetail.errors import UsageError, listed, suggestion
from dovetail.explain.corrections import model_type_of
from dovetail.explain.leaves import canonical_name
from dovetail.explain.variant import VARIANT
from dovetail.explain.wanted import Described
from dovetail.inputs.values import Values, values_from, values_of
from dovetail.report import Value
from dovetail.train.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.models.trainable import Trainable
    from dovetail.train.lora import Lora

# What `--tune` calls parts, by their purpose in the declaration.
TUNED: Mapping[str, tuple[str, ...]] = {
    "vision": ("tower",),
    "projector": ("connector",),
    "language": ("decoder", "head"),
    "action": ("policy head",),
}
ALL, LORA = "all", "lora"
# Numbers that an optimizer keeps for each parameter, by the beginning of its name.
_KEPT = {"adamw": 2, "adam": 2, "adafactor": 0, "sgd": 1, "lion": 1, "rmsprop": 1, "adagrad": 1}
STORED = "stored"
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
_DEFAULT_RATE = 5e-5  # TrainingArguments.learning_rate


class PartPlan(NamedTuple):
    """One part: its size, whether it is trained and how fast. `unreachable` are parameters that no loss
    reaches, which are never trained, with the reason."""

    role: str
    kind: str
    purpose: str
    leaves: int
    parameters: int
    is_trained: bool
    rate: float | None
    unreachable: int
    reasons: tuple[str, ...] = ()

    @property
    def trained(self) -> int:
        """How many parameters are trained."""
        return self.parameters - self.unreachable if self.is_trained else 0

    def as_json(self) -> dict[str, Any]:
        """The part as plain JSON values."""
        return {**self._asdict(), "reasons": list(self.reasons), "trained": self.trained}


class Memory(NamedTuple):
    """Bytes of one process that holds all of the model, without what a batch takes."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer


class TrainPlan(NamedTuple):
    """What a training would do. `begins` says from what, `called` which class computes it."""

    family: str
    model_type: str | None
    variant: Value | None
    called: str
    begins: str
    parts: tuple[PartPlan, ...]
    dtype: str
    stored: Mapping[str, int]
    memory: Memory
    optimizer: str
    has_weights: bool
    fresh: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """All numbers of the model."""
        return sum(part.parameters for part in self.parts)

    @property
    def trained(self) -> int:
        """Those that are trained."""
        return sum(part.trained for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            **self._asdict(),
            "variant": None if self.variant is None else self.variant.as_json(),
            "parts": [part.as_json() for part in self.parts],
            "stored": dict(self.stored),
            "memory": {**self.memory._asdict(), "bytes": self.memory.bytes},
            "parameters": self.parameters,
            "trained": self.trained,
            "fresh": list(self.fresh),
        }


class Shape(NamedTuple):
    """One parameter: its name and role, how many numbers it has, and its dtype if a file has it."""

    name: str
    role: str
    elements: int
    dtype: str | None


def plan_of_checkpoint(recipe: Recipe, checkpoint: Checkpoint) -> TrainPlan:
    """The plan of a checkpoint that is trained as it is.

    Raises:
        UsageError: `tune` or `rates` name no part, or a value of the model is not known.
    """
    leaves = [leaf for leaf in checkpoint.leaves.values() if not leaf.spec.is_dead]
    shapes = [Shape(leaf.name, leaf.role, leaf.elements, leaf.dtype) for leaf in leaves]
    fresh = [leaf.name for leaf in leaves if leaf.init == "random"]
    variant = checkpoint.report.config.get(VARIANT)
    said = checkpoint.documents.model_type
    return _planned(
        recipe,
        values_of(checkpoint),
        shapes,
        begins=checkpoint.report.path,
        model_type=said and _type(checkpoint.family, said, variant),
        variant=variant,
        fresh=fresh,
        has_weights=checkpoint.store.has_bytes,
    )


def plan_of_model(
    recipe: Recipe, model: Described, *, begins: str, fresh: Iterable[str] = (), has_weights: bool = False
) -> TrainPlan:
    """The plan of a model that has no weights yet: a config alone, or one that is to be put together.

    Raises:
        UsageError: `tune` or `rates` name no part, or a value of the model is not known.
    """
    family = model.plan.family
    shapes = []
    for leaf in model.plan.leaves():
        if not leaf.leaf.is_dead:
            name = canonical_name(leaf.role, leaf.leaf, leaf.indices)
            shapes.append(Shape(name, leaf.role, prod(leaf.shape), None))
    known = {name: value.value for name, value in model.config.items() if value.value is not None}
    types = family.config.model_types
    return _planned(
        recipe,
        values_from(model.plan, known),
        shapes,
        begins=begins,
        model_type=_type(family, types[0], model.config.get(VARIANT)) if types else None,
        variant=model.config.get(VARIANT),
        fresh=fresh,
        has_weights=has_weights,
    )


def _type(family: Family, said: str, variant: Value | None) -> str:
    return said if variant is None else model_type_of(family, said, variant.value)


def _planned(
    recipe: Recipe,
    values: Values,
    shapes: Iterable[Shape],
    *,
    begins: str,
    model_type: str | None,
    variant: Value | None,
    fresh: Iterable[str],
    has_weights: bool,
) -> TrainPlan:
    rates = rates_of(recipe.rates, values)
    trained = trained_roles([word for word in recipe.tune if word != LORA], values)
    usual = float(recipe.arguments.get("learning_rate", _DEFAULT_RATE))
    by_role: dict[str, list[Shape]] = {role: [] for role in values.kinds}
    for shape in shapes:
        by_role[shape.role].append(shape)
    model = _model(values)
    unreachable = model.unreachable
    parts = []
    for role, own in by_role.items():
        lost = {one.name: reason for one in own if (reason := unreachable.get(one.name))}
        count = sum(one.elements for one in own)
        cannot = sum(one.elements for one in own if one.name in lost)
        is_trained = role in trained and cannot < count
        parts.append(
            PartPlan(
                role,
                values.kinds[role].id,
                values.kinds[role].purpose,
                len(own),
                count,
                is_trained,
                rates.get(role, usual) if is_trained else None,
                cannot,
                tuple(dict.fromkeys(lost.values())),
            )
        )
    if LORA in recipe.tune:
        parts.append(_adapters(recipe, model, trained, usual))
    plan = TrainPlan(
        family=values.family.id,
        model_type=model_type,
        variant=variant,
        called=values.family.model.rpartition(":")[2],
        begins=begins,
        parts=tuple(parts),
        dtype=recipe.dtype,
        stored=_stored(one for own in by_role.values() for one in own),
        memory=Memory(0, 0, 0),
        optimizer=str(recipe.arguments.get("optim", "adamw_torch_fused")),
        has_weights=has_weights,
        fresh=tuple(fresh),
    )
    if not plan.trained:
        raise UsageError(
            f"--tune {','.join(recipe.tune)} trains nothing of {values.family.id}",
            hint=f"its parts: {listed(values.kinds)}",
        )
    return plan._replace(memory=_memory(plan))


def _model(values: Values) -> "Trainable":
    """The model without weights, to be asked what a loss reaches of it.

    Raises:
        UsageError: it has no loss, or a value of it is not known.
    """
    from dovetail.models import build
    from dovetail.models.trainable import Trainable

    model = build(values)
    if not isinstance(model, Trainable):
        raise UsageError(
            f"{values.family.id} has no loss: there is nothing to train it by",
            hint="language models and policies have one; a tower is trained as a part of one",
        )
    return model


def _adapters(recipe: Recipe, model: "Trainable", whole: Iterable[str], rate: float) -> PartPlan:
    """The matrices of LoRA as a part of their own.

    Raises:
        UsageError: a pattern fits no layer.
    """
    from dovetail.train.lora import targets_of

    lora = lora_of(recipe, whole)
    assert lora is not None
    layers = [model.get_submodule(name).get_parameter("weight") for name in targets_of(model, lora)]
    count = sum(lora.rank * sum(layer.shape) for layer in layers)
    kind = f"rank {lora.rank}, alpha {lora.alpha}"
    return PartPlan(LORA, kind, "adapter", 2 * len(layers), count, True, rate, 0)


def lora_of(recipe: Recipe, whole: Iterable[str]) -> "Lora | None":
    """What is adapted, where a recipe asks for it; `whole` are the parts that are trained beside."""
    if LORA not in recipe.tune:
        return None
    from dovetail.train.lora import Lora

    return Lora(
        rank=recipe.lora_rank,
        alpha=2 * recipe.lora_rank if recipe.lora_alpha is None else recipe.lora_alpha,
        dropout=recipe.lora_dropout,
        targets=tuple(recipe.lora_targets),
        whole=tuple(sorted(whole)),
    )


def _stored(shapes: Iterable[Shape]) -> dict[str, int]:
    """Bytes in the files by dtype."""
    sizes: Counter[str] = Counter()
    for one in shapes:
        if one.dtype is not None:
            sizes[one.dtype] += one.elements * BITS[one.dtype] // 8
    return dict(sizes.most_common())


def _memory(plan: TrainPlan) -> Memory:
    if plan.dtype == STORED:
        width = sum(plan.stored.values()) / max(plan.parameters, 1)
    elif plan.dtype in _WIDTHS:
        width = _WIDTHS[plan.dtype]
    else:
        raise UsageError(
            f"parameters cannot be trained as `{plan.dtype}`", hint=f"dtypes: {', '.join(_WIDTHS)}, {STORED}"
        )
    states = next((count for name, count in _KEPT.items() if plan.optimizer.startswith(name)), 2)
    kept = states * (1 if "8bit" in plan.optimizer else width)
    return Memory(int(plan.parameters * width), int(plan.trained * width), int(plan.trained * kept))


def trained_roles(tune: Sequence[str], values: Values) -> set[str]:
    """The roles that words of `--tune` mean.

    Raises:
        UsageError: a word means no part of this model.
    """
    found: set[str] = set()
    for word in tune:
        found |= set(values.kinds) if word == ALL else set(_roles_of(word, values, "--tune"))
    return found


def rates_of(rates: Mapping[str, float], values: Values) -> dict[str, float]:
    """Learning rates by role, from those by words or roles.

    Raises:
        UsageError: a word means no part of this model.
    """
    return {role: rate for word, rate in rates.items() for role in _roles_of(word, values, "--part-lr")}


def _roles_of(word: str, values: Values, option: str) -> list[str]:
    if word in values.kinds and word not in TUNED:
        return [word]
    if word not in TUNED:
        known = [ALL, LORA, *TUNED, *values.kinds]
        raise UsageError(
            f"{option} names `{word}`, which is no part",
            hint=suggestion(word, known, f"words: {', '.join(dict.fromkeys(known))}"),
        )
    roles = [role for role, part in values.kinds.items() if part.purpose in TUNED[word]]
    if not roles:
        raise UsageError(
            f"{option} names `{word}`, and {values.family.id} has no such part",
            hint=f"its parts: {', '.join(f'{role} ({part.purpose})' for role, part in values.kinds.items())}",
        )
    return roles
