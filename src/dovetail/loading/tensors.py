"""`tensors`: the weights of a checkpoint as a stream, in any layout of its family.

What `convert` writes, handed over instead: the same names, shapes and bytes in the same order, one tensor
in memory at a time.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.dtypes import BITS, DTYPES
from dovetail.edit.conversion import Conversion, Words, words_of
from dovetail.edit.convert import conversion_plan
from dovetail.edit.plan import Plan
from dovetail.errors import UsageError
from dovetail.store.content import check_copies
from dovetail.store.write.tensor_data import Skip, held
from dovetail.weights.checks import TensorChecks
from dovetail.weights.hashes import check_unchanged
from dovetail.weights.lay_out import OutputTensor


def tensors(
    checkpoint: Path,
    *,
    to: str | None = None,
    dtype: Words = (),
    without: Words = (),
    pad_vocab: int = 1,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint as a layout has it, by name, in the order in which `convert` writes them.

    A checkpoint that does not fit is refused at once, before the first tensor. Each tensor is read when
    its turn comes and checked: its file is unchanged since the beginning, no number became infinite, and
    the certificate, if there is one, has the same hash of it. The words are those of `convert`. A second
    name of a tensor gives the same tensor again.

    Raises:
        CheckpointError: the checkpoint is of no known family, damaged beyond `allow`, or changes meanwhile.
        UsageError: the layout or an option does not fit the family, or torch has no such dtype.
    """
    asked = Conversion(
        to=to,
        dtypes=words_of(dtype),
        without=words_of(without),
        pad_vocab=pad_vocab,
        allow=words_of(allow),
    )
    with ExitStack() as stack:
        source = stack.enter_context(
            opened(checkpoint, as_=as_, given=set, trust=trust, allow=asked.allow, to_be="changed")
        )
        plan = conversion_plan(source, asked)
        for tensor in plan.tensors:
            _torch_dtype(tensor)
        check_copies(plan.copies)
        return _stream(plan, _certified(source, plan), stack.pop_all())


def _stream(plan: Plan, certified: Mapping[str, str], stack: ExitStack) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a plan; the sources are open as long as it runs."""
    with stack:
        checks, sources = TensorChecks(plan.tensors, certified), plan.sources
        for tensor in plan.tensors:
            values = _values(tensor, checks)
            check_unchanged(sources)
            for name in (tensor.name, *tensor.aliases):
                yield name, values
            del values  # whoever took it may let go of it before the next one is read


def _values(tensor: OutputTensor, checks: TensorChecks) -> Tensor:
    """One tensor, read into memory of its own."""
    dtype = _torch_dtype(tensor)
    data, end = bytearray(tensor.size), 0
    for chunk in checks.chunks(tensor):
        block = held(chunk)
        if isinstance(block, Skip):
            end += block.size
            continue
        data[end : end + len(block)] = block
        end += len(block)
    assert end == tensor.size
    if not data:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(tensor.shape)


def _torch_dtype(tensor: OutputTensor) -> torch.dtype:
    """The element type of a tensor, which must have whole bytes.

    Raises:
        UsageError: torch has no such type.
    """
    found = getattr(torch, DTYPES[tensor.dtype].torch, None)
    if not isinstance(found, torch.dtype) or BITS[tensor.dtype] % 8:
        raise UsageError(
            f"`{tensor.name}` is {tensor.dtype}, which is no tensor of torch",
            hint="--dtype changes floating-point tensors; `dovetail convert` moves all others as bytes",
        )
    return found


def _certified(source: Checkpoint, plan: Plan) -> dict[str, str]:
    """The hash that the certificate has of each leaf that stays as it is."""
    stamp = source.documents.stamp
    said = stamp.values.get("leaves") if stamp else None
    if not isinstance(said, dict):
        return {}
    same = [one for tensor in plan.tensors for one in tensor.leaves if one is source.leaves.get(one.name)]
    return {one.name: said[one.name] for one in same if isinstance(said.get(one.name), str)}
