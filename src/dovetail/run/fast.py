"""A model made ready to run on a CPU: its products in the fastest way there is (`products.py`).

    stored    weights stay as they are, views of the file
    packed    weights are laid out once for the kernels of this processor; q, k and v become one product,
              gate and up another
    int8      8 bits of every weight and a scale for each row: half the memory to read, and other numbers

Where nothing is faster than torch, the model stays as it is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.models.decoder import Attention, Mlp
from dovetail.models.language import LanguageModel
from dovetail.run.products import Kernels, Make, Product, fbgemm, int8, is_native, kernels, onednn, stored

Weights = Literal["stored", "packed", "int8"]

_PACKED: dict[Kernels, Make] = {"onednn": onednn, "fbgemm": fbgemm}
# New tokens that save as much time as laying the weights out takes (docs/decisions/0009-products.md).
_WORTH_PACKING: dict[Kernels, int] = {"onednn": 32, "fbgemm": 768}


def is_worth_packing(model: nn.Module, new_tokens: int) -> bool:
    """Whether so many new tokens take less time with weights that are laid out first."""
    largest = max(model.parameters(), key=Tensor.numel)
    found = kernels(largest.dtype, largest.device)
    return found is not None and new_tokens >= _WORTH_PACKING[found]


class _Job(NamedTuple):
    """A product to be made: of one weight, or of several that have the same input, and where it goes."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    put: Callable[[Product], None]


def made_fast(model: nn.Module, weights: Weights = "packed") -> nn.Module:
    """The same model with faster products. Weights that were laid out anew are no longer parameters.

    Raises:
        UsageError: 8 bits are asked for on another device than a CPU.
    """
    if next(model.parameters()).device.type != "cpu":
        if weights == "int8":
            raise UsageError("weights of 8 bits run on a CPU only", hint="leave the device or the weights")
        return model
    return _unmoved(model) if weights == "stored" else _moved(model, weights)


class Layer(nn.Module):
    """A linear layer whose weight was laid out anew: `weight` has its shape and dtype, and no values."""

    def __init__(self, product: Product, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight.detach().to("meta")
        self._product = product

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


def _unmoved(model: nn.Module) -> nn.Module:
    """Products made of the parameters where they are, if torch's own are slow."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not is_native(module.weight.dtype):
            object.__setattr__(module, "forward", stored(module.weight, module.bias))
    if isinstance(model, LanguageModel) and not is_native(model.head_weight.dtype):
        object.__setattr__(model, "logits", stored(model.head_weight, None))
    return model


def _moved(model: nn.Module, weights: Weights) -> nn.Module:
    """Every product made of a weight that is laid out anew, if there are kernels for it; each is made on a
    thread of its own."""

    def made(job: _Job) -> Product | None:
        make = int8 if weights == "int8" else packing(job.weights[0])
        if make is None:
            return None
        weight = torch.cat(list(job.weights)) if len(job.weights) > 1 else job.weights[0]
        biases = [bias for bias in job.biases if bias is not None]
        return make(weight, torch.cat(biases) if biases else None)

    jobs = deque(_jobs(model))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for product in pool.map(made, jobs):
            job = jobs.popleft()
            if product is not None:
                job.put(product)
    return model


def packing(weight: Tensor) -> Make | None:
    """What lays a weight out for this processor."""
    found = kernels(weight.dtype, weight.device)
    return None if found is None else _PACKED[found]


def _jobs(model: nn.Module) -> Iterator[_Job]:
    """All products of a model."""
    joined: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, Attention):
            joined |= {module.q, module.k, module.v}
            yield _joined(module, ("q", "k", "v"), "project")
        elif isinstance(module, Mlp):
            joined |= {module.gate, module.up}
            yield _joined(module, ("gate", "up"), "widen")
    if isinstance(model, LanguageModel):
        yield _Job([model.head_weight], [None], lambda product: _put_head(model, product))
        joined |= {head for head in [getattr(model, "head", None)] if head is not None}
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and child not in joined:
                yield _Job([child.weight], [child.bias], _putter(parent, name))


def _joined(module: Any, names: Sequence[str], method: str) -> _Job:
    """One product of several of the same input."""
    parts = [getattr(module, name) for name in names]
    widths = [part.weight.shape[0] for part in parts]

    def put(product: Product) -> None:
        for name in names:
            delattr(module, name)
        object.__setattr__(module, method, lambda x: torch.split(product(x), widths, dim=-1))

    return _Job([part.weight for part in parts], [part.bias for part in parts], put)


def _putter(parent: nn.Module, name: str) -> Callable[[Product], None]:
    """Puts a product in the place of a layer."""

    def put(product: Product) -> None:
        setattr(parent, name, Layer(product, getattr(parent, name).weight))

    return put


def _put_head(model: Any, product: Product) -> None:
    """The head's product; the token table stays, because tokens are looked up in it."""
    model.logits = product
    if isinstance(getattr(model, "head", None), nn.Linear):
        model.head = None
