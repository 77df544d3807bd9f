"""Other ways to run a stage of a model, each in a small file behind one protocol.

A backend takes a stage, which is a module from tensors to tensors, and an example of its inputs, and
gives a function that does the same. `docs/guides/backend.md` shows how to write one.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from dovetail.dtypes import dtype_of
from dovetail.errors import UsageError, suggestion
from dovetail.parity.measures import Tolerance

Runner = Callable[..., tuple[Tensor, ...]]

# name -> module; each has a class Backend
BACKENDS = {
    "eager": "torch as it is, in another dtype or on another device",
    "inductor": "torch.compile",
    "onnx": "ONNX Runtime, through torch.onnx (dynamo)",
    "openvino": "OpenVINO, through torch.export",
}


@runtime_checkable
class Backend(Protocol):
    """Runs stages. `tolerance` says how far its results may be from float32 (isolated stages); `note` what
    whoever reads the result should know, if there is anything."""

    name: str
    tolerance: Tolerance
    note: str | None

    def compile(self, stage: nn.Module, example: tuple[Tensor, ...]) -> Runner:
        """A function with the inputs and outputs of a stage; both are float32 tensors on the cpu."""


def backend(name: str, *, dtype: str = "float32", device: str = "cpu") -> Backend:
    """The backend of a name.

    Raises:
        UsageError: there is none, it is not installed, or it does not run in this dtype or on this device.
    """
    if name not in BACKENDS:
        hint = suggestion(name, BACKENDS, f"backends: {', '.join(BACKENDS)}")
        raise UsageError(f"there is no backend `{name}`", hint=hint)
    spelled = dtype_of(dtype).torch
    try:
        module = import_module(f"dovetail.parity.backends.{name}")
        found: Backend = module.Backend(dtype=spelled, device=device)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"backend {name} needs {error.name}, which is not installed",
            hint="pip install 'dovetail-weights[verify]'",
        ) from None
    return found
