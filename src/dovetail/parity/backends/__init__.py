"""Other ways to run a stage of a model, each in a small file behind one protocol.

A backend takes a stage, which is a module from tensors to tensors, and an example of its inputs, and
gives a function that does the same. One of another package is named `package.module:Class`;
`docs/guides/backend.md` shows how to write one.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dovetail.dtypes import dtype_of
from dovetail.errors import DovetailError, UsageError, suggestion
from dovetail.parity.measures import Tolerance

Runner = Callable[..., tuple[Tensor, ...]]

# name -> module; each has a class Backend
BACKENDS = {
    "eager": "torch as it is, in another dtype or on another device",
    "inductor": "torch.compile",
    "onnx": "ONNX Runtime, through torch.onnx (dynamo)",
    "openvino": "OpenVINO, through torch.export",
}


# what a backend has, and whether it is as it must be
_PARTS: dict[str, Callable[[Any], bool]] = {
    "name": lambda one: isinstance(one, str),
    "tolerance": lambda one: isinstance(one, Tolerance),
    "note": lambda one: one is None or isinstance(one, str),
    "compile": callable,
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
    """The backend of a name, or of another package's `package.module:Class`, made with `dtype` and `device`.

    Raises:
        UsageError: there is none, it is not installed, or it does not run in this dtype or on this device.
    """
    spelled = dtype_of(dtype).torch
    if ":" in name:
        return _outside(name, dtype=spelled, device=device)
    if name not in BACKENDS:
        hint = suggestion(name, BACKENDS, f"backends: {', '.join(BACKENDS)}, or package.module:Class")
        raise UsageError(f"there is no backend `{name}`", hint=hint)
    try:
        module = import_module(f"dovetail.parity.backends.{name}")
        found: Backend = module.Backend(dtype=spelled, device=device)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"backend {name} needs {error.name}, which is not installed",
            hint="pip install 'dovetail-weights[verify]'",
        ) from None
    return found


def _outside(name: str, *, dtype: str, device: str) -> Backend:
    """A backend of another package.

    Raises:
        UsageError: it cannot be imported or made, or is none.
    """
    place, _, attribute = name.partition(":")
    try:
        kind = getattr(import_module(place), attribute)
        found = kind(dtype=dtype, device=device)
    except DovetailError:
        raise
    except Exception as error:  # somebody else's code may fail in any way
        why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise UsageError(
            f"backend `{name}` cannot be used: {why}",
            hint="name it package.module:Class; its package is installed, or its folder in PYTHONPATH",
        ) from error
    odd = [part for part, is_right in _PARTS.items() if not is_right(getattr(found, part, None))]
    if odd:
        raise UsageError(
            f"`{name}` is no backend: {', '.join(odd)} {'is' if len(odd) == 1 else 'are'} not as it must be",
            expected="name: str, tolerance: Tolerance, note: str or None, compile(stage, example)",
            hint="docs/guides/backend.md has the protocol",
        )
    outside: Backend = found
    return outside
