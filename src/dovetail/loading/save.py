"""`save`: from a model in memory to a checkpoint, by the plan, certificate and publication of `convert`.

The parameters of a model are leaves under their canonical names, so a save is a conversion whose leaves
come from memory. What stands beside the weights comes from the checkpoint that the result shall be like;
without one it is written from the sizes and settings of the model.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.checkpoint import Checkpoint, Path, examined, opened
from dovetail.declare.blueprint import Blueprint
from dovetail.dtypes import dtype_of
from dovetail.edit.conversion import Conversion, writable_layout
from dovetail.edit.convert import conversion_plan
from dovetail.edit.plan import Plan
from dovetail.edit.set_values import check_given
from dovetail.edit.side_files.config_files import needed_dims
from dovetail.edit.write.destination import check_place
from dovetail.edit.write.execute import Done, Progress, Writing, execute
from dovetail.edit.write.files import DEFAULT_SHARD
from dovetail.errors import UsageError, listed
from dovetail.explain.documents import GIVEN
from dovetail.explain.given import resolved
from dovetail.inputs.values import Values
from dovetail.store.store import Entry, Store
from dovetail.weights.leaf import BLOCK, Leaf

_WRAPPERS = (["module"], ["_orig_mod"])


def save(
    model: nn.Module,
    out: Path,
    *,
    like: Path | None = None,
    layout: str | None = None,
    for_: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
    stamp: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    trust: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    beside: Callable[[str], None] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Done:
    """Writes a model that `load` gave, trained or changed since, as a checkpoint; whole or not at all.

    `like` is the checkpoint whose layout, configs and tokenizer it gets, nearly always the one that it
    was loaded from; `layout` is another layout of its family, or the only thing said where there is no
    such checkpoint; `for_` is the program that is to open the result (`transformers==4.57`). `weights` are
    the values by the names of `state_dict()`, where they are not in the model: gathered from several
    processes, or merged with an adapter. `stamp` are values that go into the certificate, as
    `dovetail stamp --set` writes them, and `facts` further entries of it, such as what the model was trained
    on; `trust` is the side that counts where `weights`, `config` and `stamp` of `like` contradict each
    other. Parameters are written in the dtype that they have; a head that shares the table of tokens is
    tied in the result. What was random when the model began keeps its tag. `beside` is told the folder
    before it appears, and puts further files into it. `resume` goes on with what a save that failed left;
    all of it is compared with the parameters first.

    Raises:
        UsageError: the module is no whole model of dovetail's, nothing says the layout, or `out` exists.
        CheckpointError: `like` is damaged or of another model.
        WriteError: there is no room or no permission; what was written is kept for `resume`.
    """
    with planned(
        model,
        like=like,
        layout=layout,
        for_=for_,
        weights=weights,
        stamp=stamp,
        facts=facts,
        trust=trust,
        format=format,
        max_shard_size=max_shard_size,
    ) as plan:
        check_place(os.fspath(out), plan.stores, overwrite=overwrite)
        is_mixed = any(leaf.store for tensor in plan.tensors for leaf in tensor.leaves)
        read = plan if is_mixed else plan._replace(stores=())
        return execute(read, os.fspath(out), Writing(overwrite, resume, sync, beside), progress)


@contextmanager
def planned(
    model: nn.Module,
    *,
    like: Path | None = None,
    layout: str | None = None,
    for_: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
    stamp: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    trust: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
) -> Iterator[Plan]:
    """What `save` with the same arguments would write; raises what it raises before it writes."""
    inner = unwrapped(model)
    values = vars(inner).get("values")
    if not isinstance(values, Values):
        raise UsageError(
            f"a {type(inner).__name__} is no model of dovetail's",
            hint="save takes what `dovetail.load` gives",
        )
    if like is None and layout is None:
        raise UsageError(
            "nothing says how to write the model",
            hint="give like=CKPT, the checkpoint that it came from, or layout=LAYOUT",
        )
    parameters = inner.state_dict(keep_vars=True) if weights is None else weights
    _check_values(inner, parameters)
    asked = Conversion(to=layout, format=format, max_shard_size=max_shard_size, reader=for_)
    with _described(values, like, layout, stamp=stamp or {}, trust=trust) as source:
        leaves = _leaves(source, values, parameters, getattr(inner, "tags", {}))
        in_memory = source.with_leaves(leaves)
        plan = conversion_plan(in_memory, asked)._replace(verb="save", parts=_kinds(in_memory))
        outputs = tuple(one._replace(facts={**one.facts, **(facts or {})}) for one in plan.outputs)
        yield plan._replace(outputs=outputs)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of what torch.compile or DistributedDataParallel put around it."""
    while [name for name, _ in model.named_children()] in _WRAPPERS:
        (model,) = model.children()
    return model


def _check_values(model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Refuses a model some of whose parameters have no values.

    Raises:
        UsageError: it is such a model.
    """
    empty = [name for name, one in parameters.items() if one.is_meta]
    if not empty:
        return
    named = listed([f"`{name}`" for name in empty], 3)
    if any(vars(module).get("product") is not None for module in model.modules()):
        raise UsageError(
            f"the values of {named} are laid out anew for fast products and cannot be written back",
            hint="save a model that was loaded without weights=",
        )
    raise UsageError(
        f"{named} of the model {'have' if empty[1:] else 'has'} no values: on the device `meta`",
        hint="load the model, or give every parameter a value first",
    )


@contextmanager
def _described(
    values: Values, like: Path | None, layout: str | None, *, stamp: Mapping[str, Any], trust: str | None
) -> Iterator[Checkpoint]:
    """What the result shall be like, with what was said when the model was loaded and what is said now."""
    if like is None:
        assert layout is not None
        store = _store_of(values, writable_layout(values.family, layout).id)
        as_ = f"{values.family.id}/{writable_layout(values.family, layout).id}"
        known = {
            name: value.value
            for name, value in values.values.items()
            if value.source not in ("default", "undetermined") and value.value is not None
        }
        given = {**known, **_stamped(examined(store, as_=as_, given=known), stamp)}
        yield examined(store, as_=as_, given=given).usable(to_be="written")
        return
    said = {
        name: value.value
        for name, value in values.values.items()
        if value.source == "stamp" and value.evidence.startswith(GIVEN)
    }
    with opened(like, as_=values.family.id, given=said, trust=trust, to_be="a pattern") as source:
        if not stamp:
            yield source
            return
        given = {**said, **_stamped(source, stamp)}
        again = examined(source.store, as_=values.family.id, given=given, trust=trust)
        yield again.usable(to_be="a pattern")


def _stamped(source: Checkpoint, stamp: Mapping[str, Any]) -> dict[str, Any]:
    """The values to stamp by their full names."""
    given = resolved(stamp, source.report.config, source.family)
    check_given(given, source, overwrite=False)
    return given


def _store_of(values: Values, layout: str) -> Store:
    """The header that a model would have in a layout: names and shapes, no values."""
    kinds = values.kinds
    plan = Blueprint(
        values.family,
        kinds,
        {
            f"{role}.{dim}": int(_value(values, f"{role}.{dim}"))
            for role, part in kinds.items()
            for dim in needed_dims(part, values.features[role])
        },
        {
            role: tuple(one for one in part.optional if one in values.features[role])
            for role, part in kinds.items()
        },
        {
            f"{role}.{name}": tuple(_value(values, f"{role}.{name}"))
            for role, part in kinds.items()
            for name in part.subsets
        },
    )
    stored = plan.stored(values.family.layout(layout))
    entries = {one.name: Entry("F32", one.shape, -1, -1, -1) for one in stored}
    return Store("a model in memory", "memory", files=(), entries=entries)


def _value(values: Values, name: str) -> Any:
    found = values.values.get(name)
    if found is None or found.value is None:
        raise UsageError(f"nothing says {name} of the model", hint="give like=CKPT")
    return found.value


def _leaves(
    source: Checkpoint, values: Values, parameters: Mapping[str, Tensor], tags: Mapping[str, str]
) -> dict[str, Leaf]:
    """The parameters of a model as leaves; what no computation reads stays as the files have it.

    Raises:
        UsageError: the model lacks a parameter, has one too many, or one of another shape.
    """
    patterns = {
        name: leaf
        for name, leaf in source.leaves.items()
        if leaf.role in values.kinds and (name in parameters or not leaf.spec.is_dead)
    }
    for role in source.family.ties:
        if role in values.kinds and role not in source.kinds:
            (spec,) = source.family.parts[role][0].leaves.values()
            table = source.leaves[source.family.ties[role]]
            patterns[f"{role}.{spec.name}"] = table._replace(
                name=f"{role}.{spec.name}", role=role, spec=spec, indices={}, init="copied"
            )
    _check_names(source, patterns, parameters)
    leaves = {name: _in_memory(leaf, parameters[name], tags) for name, leaf in patterns.items()}
    if source.store.has_bytes:
        leaves |= {
            name: leaf for name, leaf in source.leaves.items() if leaf.spec.is_dead and name not in leaves
        }
    return leaves


def _check_names(source: Checkpoint, patterns: Mapping[str, Leaf], parameters: Mapping[str, Tensor]) -> None:
    """Refuses a model that is not all of the checkpoint that it shall be like, and nothing else."""
    missing = [f"`{name}`" for name in patterns if name not in parameters]
    more = [f"`{name}`" for name in parameters if name not in patterns]
    other = [
        f"`{name}` is {list(parameters[name].shape)}, expected {list(leaf.shape)}"
        for name, leaf in patterns.items()
        if name in parameters and tuple(parameters[name].shape) != leaf.shape
    ]
    if missing or more or other:
        raise UsageError(
            "the model is not a whole model as its pattern is",
            pattern=source.report.path,
            missing=listed(missing, 5) or None,
            not_in_the_family=listed(more, 5) or None,
            other_shapes=listed(other, 5) or None,
            hint="give like= the checkpoint that the model was loaded from",
        )


def _in_memory(leaf: Leaf, parameter: Tensor, tags: Mapping[str, Any]) -> Leaf:
    """A leaf whose values are those of a parameter."""
    dtype = dtype_of(str(parameter.dtype)).name
    is_view = parameter.device.type == "cpu" and parameter.is_contiguous()

    def make() -> Iterator[memoryview]:
        flat = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        data = memoryview(flat.numpy())  # type: ignore[arg-type]
        for start in range(0, len(data), BLOCK):
            yield data[start : start + BLOCK]

    return leaf._replace(
        dtype=dtype,
        source_dtype=dtype,
        init=tags.get(leaf.name, leaf.init),
        store=None,
        spans=(),
        make=make,
        working=0 if is_view else parameter.numel() * parameter.element_size(),
    )


def _kinds(source: Checkpoint) -> dict[str, str]:
    """The kind of part in each role of a model."""
    return {leaf.role: source.parts[leaf.role].id for leaf in source.leaves.values()}
