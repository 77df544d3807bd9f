"""`load`: from a checkpoint in any layout to a model that runs.

Examine, refuse unless whole, build on `meta`, assign. Leaves that lie in one run in the file become
views of it; nothing is left random, because nothing has initial values. A head that is stored beside the
table it is tied to, as LitGPT stores it, becomes that table again if their bytes are equal.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.dtypes import dtype_of
from dovetail.errors import CheckpointError, FormatError, UsageError, listed
from dovetail.inputs.values import Values, values_of
from dovetail.loading.mapped import MappedFiles
from dovetail.models import build
from dovetail.models.kernels import Weights, choose_kernels
from dovetail.models.layers import Linear
from dovetail.report import Report, Tie, Value
from dovetail.weights.hashes import have_equal_values
from dovetail.weights.leaf import Leaf

Dtype = str | torch.dtype


def load(
    checkpoint: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
    size: str | None = None,
    trust: str | None = None,
    weights: Weights | None = None,
) -> nn.Module:
    """The model of a checkpoint, with every parameter from it.

    `dtype` casts all weights but those that the family keeps in float32; without it they stay as they
    are stored. `settings` gives values that no weight shows (`{"text.norm_eps": 1e-5}`), `as_` a family
    where several fit, `size` the published size that it must be, `trust` the side that counts where
    `weights`, `config` and `stamp` contradict each other. `weights` chooses the kernels of its products
    (`models/kernels.py`); without, they are torch's own, as training wants them. The model is in evaluation
    mode; its `report` says where every value comes from. A view of a file becomes a copy when written to.

    Raises:
        UsageError: there is nothing to open, no such device, no model of the family, or a value that
            nothing decides.
        CheckpointError: the checkpoint is not whole, or breaks its format.
        RemoteError: a server did not give what was asked for.
    """
    usable_device(device)
    with opened(checkpoint, as_=as_, given=settings, size=size, trust=trust) as found:
        model = load_opened(found, device=device, dtype=dtype)
    if weights is not None:
        choose_kernels(model, weights)
    return model


def load_opened(
    checkpoint: Checkpoint, *, device: str | torch.device = "cpu", dtype: Dtype | None = None
) -> nn.Module:
    """The model of an opened checkpoint; raises what `load` raises."""
    place = usable_device(device)
    _check_no_node(checkpoint)
    with no_collection():
        weights = StoredWeights(checkpoint, compares_ties=True)
        model = build(weights.values)
        weights.assign(model, weights.leaves, prefix="", dtype=dtype)
    model.report = checkpoint.report  # type: ignore[assignment]
    model.tags = weights.tags  # type: ignore[assignment]
    return model.eval().to(place)


@contextmanager
def no_collection() -> Iterator[None]:
    """No search for garbage while thousands of objects are made: one search of all that torch has made
    takes as long as the whole load (80 ms)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if it can be used.

    Raises:
        UsageError: it cannot.
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(
            f"device `{device}` cannot be used: {why}", hint="leave it out to run on the cpu"
        ) from None
    return place


def check_whole(checkpoint: Checkpoint, config: Mapping[str, Value] | None = None) -> None:
    """Refuses a checkpoint that is not whole, and values that its family does not have.

    `config` has all values of a model of which only a part is here.
    """
    report = checkpoint.report
    if not report.is_whole:
        raise _not_whole(report)
    if beside := next((one for one in report.findings if one.code == "adapter"), None):
        raise CheckpointError(
            f"loaded as it is, the adapter would be lost: {beside.message}",
            file=report.path,
            hint=f"{beside.hint}; `dovetail convert --allow NAME` writes the base model alone",
        )
    known = report.config if config is None else config
    roles = checkpoint.family.parts
    if unknown := [name for name in checkpoint.documents.given if name not in known and name not in roles]:
        role = unknown[0].partition(".")[0]
        near = [name for name in known if name.partition(".")[0] == role]
        raise UsageError(
            f"{report.family} has no value `{unknown[0]}`",
            hint=f"it has {listed(near or known, 40)}",
        )


def _check_no_node(checkpoint: Checkpoint) -> None:
    """Refuses a node of a split, which is a part of a model."""
    if (node := checkpoint.documents.node) is not None:
        raise UsageError(
            f"this is node {node.fact.get('index')} of {node.fact.get('of')} of a split, not a whole model",
            checkpoint=checkpoint.report.path,
            hint="give the folder with all nodes; `dovetail.load_stage` loads one by itself",
        )


def _not_whole(report: Report) -> CheckpointError:
    errors = [finding for finding in report.findings if finding.severity == "error"]
    first = errors[0]
    cause = errors[1] if first.code == "incomplete" and len(errors) > 1 else first  # which it sums up
    rest = {f"also {i}": finding.message for i, finding in enumerate(errors[1:6], 2)}
    more = {"and": f"{len(errors) - 6} more"} if len(errors) > 6 else {}
    return CheckpointError(
        f"the checkpoint is not whole: {first.message}" if report.family else first.message,
        file=report.path,
        **rest,
        **more,
        hint=cause.hint or "`dovetail validate` says everything about it",
    )


class StoredWeights:
    """What a checkpoint has for a model; `compares_ties` reads a stored head and the table it is tied to."""

    def __init__(
        self, checkpoint: Checkpoint, values: Values | None = None, *, compares_ties: bool = False
    ) -> None:
        check_whole(checkpoint, None if values is None else values.values)
        self._family = checkpoint.family
        self._files = MappedFiles(checkpoint.store)
        leaves = checkpoint.leaves
        self.leaves = {name: leaf for name, leaf in leaves.items() if not leaf.spec.is_dead}
        self.tags = {name: leaf.init for name, leaf in leaves.items() if leaf.init != "copied"}
        self.values = values_of(checkpoint) if values is None else values
        for tie in checkpoint.report.ties if compares_ties else ():
            if tie.is_stored and tie.flag is not False and self._is_copy(tie):
                self.leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.role != tie.role}
                kinds = {role: part for role, part in self.values.kinds.items() if role != tie.role}
                self.values = replace(self.values, kinds=kinds)

    def _is_copy(self, tie: Tie) -> bool:
        """Whether a stored head is byte for byte the table it is tied to."""
        head = next(leaf for leaf in self.leaves.values() if leaf.role == tie.role)
        return have_equal_values(head, self.leaves[tie.leaf])

    def part(self, role: str) -> tuple[nn.Module, dict[str, Leaf]]:
        """One part on `meta`, and its leaves.

        Raises:
            UsageError: the model has no such part.
        """
        if role in self._family.ties and role not in (*self.values.kinds, *self.values.lost):
            table = self.leaves[self._family.ties[role]]
            with torch.device("meta"):
                head = Linear(table.shape[1], table.shape[0], bias=False)
            return head, {f"{role}.weight": table}
        parts = dict(build(self.values).named_children())
        if role not in parts:
            raise UsageError(f"{self._family.id} has no part `{role}`", hint=f"it has {listed(parts)}")
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.role == role}
        return parts[role], leaves

    def assign(
        self, module: nn.Module, leaves: Mapping[str, Leaf], *, prefix: str, dtype: Dtype | None
    ) -> None:
        """Gives every parameter its leaf, cast where a dtype is asked for.

        Raises:
            CheckpointError: a parameter has no leaf, a leaf no parameter, or their shapes differ.
        """
        _check(module, leaves, prefix)
        asked = None if dtype is None else _torch_dtype(dtype)
        tensors = {}
        for name, leaf in leaves.items():
            stored = self._files.tensor(leaf)
            tensors[name.removeprefix(prefix)] = cast = _cast(name, stored, asked, self._family.float32)
            if cast is not stored:
                self._files.forget(leaf)
        module.load_state_dict(tensors, assign=True)
        left = [name for name, one in (*module.named_parameters(), *module.named_buffers()) if one.is_meta]
        assert not left, f"left without values: {listed(left)}"


def _check(module: nn.Module, leaves: Mapping[str, Leaf], prefix: str) -> None:
    """Raises unless parameters and leaves are the same, with the same shapes."""
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
            hint="this is a fault in dovetail's model of the family, or a config that names another size"
            if extra or wrong
            else "of a model that `dovetail split` cut, give the folder with all nodes, or merge it",
        )


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


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None, float32: tuple[str, ...]) -> Tensor:
    """The tensor in the type that was asked for, in float32 if its name fits a pattern of such."""
    if dtype is None:
        return tensor
    is_exception = dtype.itemsize < 4 and any(fnmatchcase(name, pattern) for pattern in float32)
    return tensor.to(torch.float32 if is_exception else dtype)
