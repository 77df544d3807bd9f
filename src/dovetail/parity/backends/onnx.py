"""ONNX Runtime, with the graph that torch.onnx exports."""

import io
import logging
import warnings
from contextlib import redirect_stdout
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.parity.backends import Runner
from dovetail.parity.backends.tolerances import TOLERANCES

# A graph in one piece, its weights included, has at most 2 GiB: protobuf's limit.
_LARGE = 2_000_000_000


class Backend:
    """Exports every stage and runs it on the CPU, in float32."""

    name = "onnx"
    note: str | None = None

    def __init__(self, *, dtype: str = "float32", device: str = "cpu") -> None:
        import onnxruntime  # noqa: F401 - says at once that it is not installed
        import onnxscript  # noqa: F401 - what torch.onnx exports with

        if dtype != "float32" or device != "cpu":
            raise UsageError("onnx runs in float32 on the cpu here", hint="leave --dtype and --device out")
        self.tolerance = TOLERANCES[dtype]

    def compile(self, stage: nn.Module, example: tuple[Tensor, ...]) -> Runner:
        """A session of the exported stage."""
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing needs
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(stage, example, dynamo=True, verbose=False)
        assert program is not None
        session = _session(program, sum(one.nbytes for one in stage.state_dict().values()))
        names = [one.name for one in session.get_inputs()]

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(_inputs(program), tensors, strict=True))
            found = session.run(None, {name: given[name].contiguous().numpy() for name in names})
            return tuple(torch.from_numpy(one).float() for one in found)

        return run


def _session(program: "torch.onnx.ONNXProgram", size: int) -> Any:
    """A session of a graph with weights of so many bytes; large ones go through a file."""
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    if size < _LARGE:
        return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=providers)
    with TemporaryDirectory() as folder:
        path = f"{folder}/stage.onnx"
        program.save(path, external_data=True)
        return onnxruntime.InferenceSession(path, providers=providers)


def _inputs(program: "torch.onnx.ONNXProgram") -> list[str]:
    """The names of all inputs, those that the graph does not need included."""
    return [str(one.name) for one in program.model.graph.inputs]
