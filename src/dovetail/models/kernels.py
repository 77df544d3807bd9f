"""Which kernels the products of a model run in on a CPU (`products.py`): chosen once, as it is loaded.

    stored    weights stay as they are, views of the file
    packed    weights are laid out once for the kernels of this processor; q, k and v become one product,
              gate and up another
    int8      8 bits of every weight and a scale for each row: half the memory to read, and other numbers

A layer whose weight was laid out anew keeps it as a parameter on `meta`, with its shape and no values.
Where nothing is faster than torch, the model stays as it is.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.models.decoder import Attention, Mlp
from dovetail.models.language import LanguageModel, NoHead
from dovetail.models.layers import Linear
from dovetail.models.products import Kernels, Make, Product, Stored, fbgemm, int8, is_native, kernels, onednn

Weights = Literal["stored", "packed", "int8"]

_PACKED: dict[Kernels, Make] = {"onednn": onednn, "fbgemm": fbgemm}
# New tokens that save as much time as laying the weights out takes (docs/decisions/0009-products.md).
_WORTH_PACKING: dict[Kernels, int] = {"onednn": 32, "fbgemm": 768}


def is_worth_packing(model: nn.Module, new_tokens: int) -> bool:
    """Whether so many new tokens take less time with weights that are laid out first."""
    largest = max(model.parameters(), key=Tensor.numel)
    found = kernels(largest.dtype, largest.device)
    return found is not None and new_tokens >= _WORTH_PACKING[found]


def choose_kernels(model: nn.Module, weights: Weights) -> None:
    """Gives every product of a model the kernel that its weights are wanted for.

    Raises:
        UsageError: 8 bits are asked for on another device than a CPU.
    """
    if any(one.device.type != "cpu" for one in model.parameters()):
        if weights == "int8":
            raise UsageError("weights of 8 bits run on a CPU only", hint="leave the device or the weights")
        return
    if weights == "stored":
        for job in _jobs(model, joins=False):
            weight, bias = job.layers[0]
            if not is_native(weight.dtype):
                job.taker.product = Stored(weight, bias)
        return
    _lay_out(model, weights)


class _Job(NamedTuple):
    """A product to be made, of one weight or of several that have the same input: weights and biases, the
    module that takes it, and the layers whose weights it stands for."""

    layers: Sequence[tuple[Tensor, Tensor | None]]
    taker: Any
    owners: Sequence[nn.Linear] = ()


def _lay_out(model: nn.Module, weights: Weights) -> None:
    """Lays every weight out anew, if there are kernels for it; each on a thread of its own."""

    def made(job: _Job) -> Product | None:
        tables = [weight for weight, _ in job.layers]
        make = int8 if weights == "int8" else packing(tables[0])
        if make is None:
            return None
        biases = [bias for _, bias in job.layers if bias is not None]
        return make(
            torch.cat(tables) if len(tables) > 1 else tables[0], torch.cat(biases) if biases else None
        )

    jobs = deque(_jobs(model, joins=True))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for product in pool.map(made, jobs):
            job = jobs.popleft()
            if product is not None:
                job.taker.product = product
                for owner in job.owners:
                    owner.weight = nn.Parameter(owner.weight.to("meta"), requires_grad=False)


def packing(weight: Tensor) -> Make | None:
    """What lays a weight out for this processor."""
    found = kernels(weight.dtype, weight.device)
    return None if found is None else _PACKED[found]


def _jobs(model: nn.Module, *, joins: bool) -> Iterator[_Job]:
    """All products of a model; q, k and v make one, gate and up another, if they are joined."""
    taken: set[Any] = set()
    if isinstance(model, LanguageModel):
        head = getattr(model, "head", None)
        taken |= {head} - {None}
        is_end = model.decoder.layers.stop == model.decoder.config.layers
        if is_end and not isinstance(head, NoHead):
            yield _Job([(model.head_weight, None)], model, () if head is None else (head,))
    for module in model.modules():
        if joins and isinstance(module, Attention | Mlp):
            layers = module.joined
            taken.update(layers)
            yield _Job([(one.weight, one.bias) for one in layers], module, layers)
        elif isinstance(module, Linear) and module not in taken:
            yield _Job([(module.weight, module.bias)], module, (module,))
