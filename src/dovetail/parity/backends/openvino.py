"""OpenVINO, with the graph that torch.export traces."""

import sys
import warnings

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.parity.backends import Runner
from dovetail.parity.backends.tolerances import TOLERANCES

_PRECISION = {"float32": "f32", "bfloat16": "bf16"}

# Unless this package is missing, every conversion reports itself to a server of Intel's.
_TELEMETRY = "openvino_telemetry"
_NO_BFLOAT16 = "this processor has no bfloat16: OpenVINO computes in float32 all the same"


class Backend:
    """Converts every stage and runs it on the CPU; weights stay float32, the arithmetic is as asked."""

    name = "openvino"

    def __init__(self, *, dtype: str = "float32", device: str = "cpu") -> None:
        sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
        import openvino

        if dtype not in _PRECISION or device != "cpu":
            raise UsageError(
                "openvino runs in float32 and bfloat16 on the cpu here",
                hint="give one of them as --dtype, and leave --device out",
            )
        self.tolerance = TOLERANCES[dtype]
        self._core = openvino.Core()
        self._hint = _PRECISION[dtype]
        is_there = self._hint != "bf16" or "BF16" in self._core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        )
        self.note = None if is_there else _NO_BFLOAT16

    def compile(self, stage: nn.Module, example: tuple[Tensor, ...]) -> Runner:
        """The compiled stage."""
        import openvino

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(stage, example)
            # it knows sdpa with as many key heads as query heads only; decomposed, it needs not know
            model = openvino.convert_model(exported.run_decompositions())
        compiled = self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": self._hint})

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            found = compiled([one.contiguous().numpy() for one in tensors])
            return tuple(torch.from_numpy(found[i].copy()).float() for i in range(len(compiled.outputs)))

        return run
