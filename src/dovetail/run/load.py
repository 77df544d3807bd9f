"""`load`: from a checkpoint in any layout to a model that runs.

Examine, refuse unless whole, build on `meta`, assign. Leaves that lie in one run in the file become
views of it; nothing is left random, because nothing has initial values.
"""

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.dtypes import dtype_of
from dovetail.errors import CheckpointError, FormatError, UsageError, listed
from dovetail.families import built_in, family, third_party
from dovetail.layout.examine import Examination, examine
from dovetail.layout.leaves import CanonicalLeaf, canonical_leaves
from dovetail.models import FLOAT32, build
from dovetail.models.decoder import Decoder
from dovetail.models.values import values_of
from dovetail.report import Report
from dovetail.run.mapped import tensors_of
from dovetail.store.open import open_checkpoint
from dovetail.store.store import Store

Path = str | os.PathLike[str]
Dtype = str | torch.dtype


def load(
    checkpoint: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
) -> nn.Module:
    """The model of a checkpoint, with every parameter from it.

    `dtype` casts all weights but those that the family keeps in float32; without it they stay as they
    are stored. `settings` gives values that no weight shows (`{"text.norm_eps": 1e-5}`), `as_` a family
    where several fit. The model is in evaluation mode. A view of a file becomes a copy when written to.

    Raises:
        UsageError: there is nothing to open, no model of the family, or a value that nothing decides.
        CheckpointError: the checkpoint is not whole, or breaks its format.
        RemoteError: a server did not give what was asked for.
    """
    with open_checkpoint(checkpoint) as store:
        one = _examined(store, settings or {}, as_)
        model = build(values_of(one.report))
        _assign(model, _leaves(one, store), store, prefix="", family=one.report.family or "", dtype=dtype)
    return model.eval().to(device)


def load_part(
    checkpoint: Path,
    role: str,
    *,
    layers: range | None = None,
    device: str | torch.device = "cpu",
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
) -> nn.Module:
    """One part of a model (`vision`, `text`), or a range of the layers of its decoder.

    Layers keep their own numbers. Raises what `load` raises, and:

    Raises:
        UsageError: the model has no such part, or no such layers.
    """
    with open_checkpoint(checkpoint) as store:
        one = _examined(store, settings or {}, as_)
        model = build(values_of(one.report))
        parts = dict(model.named_children())
        if role not in parts:
            raise UsageError(f"{one.report.family} has no part `{role}`", hint=f"it has {listed(parts)}")
        part = parts[role]
        if layers is not None:
            if not isinstance(part, Decoder):
                raise UsageError(f"{role} is no decoder: it cannot be cut into layers")
            part.keep(layers)
        prefix = f"{role}."
        leaves = {name: leaf for name, leaf in _leaves(one, store).items() if name.startswith(prefix)}
        kept = {prefix + name for name, _ in part.named_parameters()} if layers else leaves.keys()
        leaves = {name: leaf for name, leaf in leaves.items() if name in kept}
        _assign(part, leaves, store, prefix=prefix, family=one.report.family or "", dtype=dtype)
    return part.eval().to(device)


def _examined(store: Store, settings: Mapping[str, Any], as_: str | None) -> Examination:
    if as_ is None:
        one = examine(store, built_in, more_families=third_party, given=settings)
    else:
        id, _, layout = as_.partition("/")
        one = examine(store, tuple, as_family=family(id), as_layout=layout or None, given=settings)
    if not one.report.is_whole:
        raise _not_whole(one.report)
    if unknown := [name for name in settings if name not in one.report.config]:
        raise UsageError(
            f"{one.report.family} has no value `{unknown[0]}`", hint=f"it has {listed(one.report.config, 40)}"
        )
    return one


def _not_whole(report: Report) -> CheckpointError:
    errors = [finding for finding in report.findings if finding.severity == "error"]
    first = errors[0]
    rest = {f"also {i}": finding.message for i, finding in enumerate(errors[1:6], 2)}
    more = {"and": f"{len(errors) - 6} more"} if len(errors) > 6 else {}
    return CheckpointError(
        f"the checkpoint is not whole: {first.message}", file=report.path, **rest, **more, hint=first.hint
    )


def _leaves(one: Examination, store: Store) -> dict[str, CanonicalLeaf]:
    """Every leaf of the checkpoint that somebody uses."""
    assert one.one is not None
    assert one.inference is not None
    leaves = canonical_leaves(one.one, one.inference, store)
    return {name: leaf for name, leaf in leaves.items() if not leaf.leaf.is_dead}


def _assign(
    module: nn.Module,
    leaves: Mapping[str, CanonicalLeaf],
    store: Store,
    *,
    prefix: str,
    family: str,
    dtype: Dtype | None,
) -> None:
    """Gives every parameter its leaf.

    Raises:
        CheckpointError: a parameter has no leaf, a leaf no parameter, or their shapes differ.
    """
    wanted = {prefix + name: tuple(one.shape) for name, one in module.state_dict(keep_vars=True).items()}
    missing = [name for name in wanted if name not in leaves]
    extra = [name for name in leaves if name not in wanted]
    wrong = [name for name in wanted.keys() & leaves.keys() if wanted[name] != leaves[name].shape]
    if missing or extra or wrong:
        raise CheckpointError(
            "the checkpoint and the model do not fit each other",
            parameters_without_weights=listed(missing) or None,
            weights_without_parameter=listed(extra) or None,
            other_shapes=listed(sorted(wrong)) or None,
            hint="this is a fault in dovetail's model of the family, or a config that names another size",
        )
    tensors = tensors_of(leaves, store)
    if dtype is not None:
        asked, exceptions = _torch_dtype(dtype), FLOAT32.get(family, ())
        tensors = {name: _cast(name, tensor, asked, exceptions) for name, tensor in tensors.items()}
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    module.load_state_dict(named, assign=True)
    left = [name for name, one in (*module.named_parameters(), *module.named_buffers()) if one.is_meta]
    assert not left, f"left without values: {listed(left)}"


def _torch_dtype(dtype: Dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        found = dtype
    else:
        try:
            found = getattr(torch, dtype_of(dtype).torch)
        except FormatError as error:
            raise UsageError(error.message, hint="dtypes: bfloat16, float16, float32, float64") from None
    if not found.is_floating_point or found.itemsize < 2:
        raise UsageError(f"a model cannot run in {found}", hint="dtypes: bfloat16, float16, float32, float64")
    return found


def _cast(name: str, tensor: Tensor, dtype: torch.dtype, exceptions: Iterable[str]) -> Tensor:
    """The tensor in the type that was asked for, in float32 if it is one that the family keeps so."""
    is_exception = dtype.itemsize < 4 and any(fnmatchcase(name, pattern) for pattern in exceptions)
    return tensor.to(torch.float32 if is_exception else dtype)
