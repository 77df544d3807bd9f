"""dovetail: the tool and library for the weights of vision-language(-action) models.

>>> import dovetail
>>> report = dovetail.inspect("Qwen2-VL-2B-Instruct")       # doctest: +SKIP
>>> report.family, report.layout, report.parameters         # doctest: +SKIP
('qwen2_vl', 'hf', 2208985600)

The verbs are functions here and commands of `dovetail`; both give the same Report.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.compare.diff import diff
    from dovetail.compare.fingerprint import fingerprint
    from dovetail.data.inspected import inspect_data
    from dovetail.data.manifest import open_manifest
    from dovetail.declare.family import Family
    from dovetail.edit.convert import convert, plan_convert
    from dovetail.edit.graft import graft, plan_graft
    from dovetail.edit.make import make
    from dovetail.edit.merge import merge
    from dovetail.edit.split import plan_split, split
    from dovetail.edit.stamp import stamp
    from dovetail.errors import DovetailError
    from dovetail.inputs.load import load_inputs
    from dovetail.loading.load import load
    from dovetail.loading.part import load_part
    from dovetail.loading.save import save
    from dovetail.loading.stage import load_stage
    from dovetail.loading.tensors import tensors
    from dovetail.parity.verify import verify
    from dovetail.report import Finding, Report
    from dovetail.run.act import Actor, act
    from dovetail.run.generate import Generator, generate
    from dovetail.store.open import open_checkpoint
    from dovetail.tensor_list import TensorRow, ls
    from dovetail.train.evaluate import evaluate
    from dovetail.train.evaluate_policy import evaluate_policy
    from dovetail.train.train import train
    from dovetail.verbs import families, inspect, validate

__version__ = "0.1.0"

_HOMES = {
    "Actor": "dovetail.run.act",
    "DovetailError": "dovetail.errors",
    "Family": "dovetail.declare.family",
    "Finding": "dovetail.report",
    "Generator": "dovetail.run.generate",
    "Report": "dovetail.report",
    "TensorRow": "dovetail.tensor_list",
    "act": "dovetail.run.act",
    "convert": "dovetail.edit.convert",
    "diff": "dovetail.compare.diff",
    "evaluate": "dovetail.train.evaluate",
    "evaluate_policy": "dovetail.train.evaluate_policy",
    "families": "dovetail.verbs",
    "fingerprint": "dovetail.compare.fingerprint",
    "generate": "dovetail.run.generate",
    "graft": "dovetail.edit.graft",
    "inspect": "dovetail.verbs",
    "inspect_data": "dovetail.data.inspected",
    "load": "dovetail.loading.load",
    "load_inputs": "dovetail.inputs.load",
    "load_part": "dovetail.loading.part",
    "load_stage": "dovetail.loading.stage",
    "ls": "dovetail.tensor_list",
    "make": "dovetail.edit.make",
    "merge": "dovetail.edit.merge",
    "open_manifest": "dovetail.data.manifest",
    "open_checkpoint": "dovetail.store.open",
    "plan_convert": "dovetail.edit.convert",
    "plan_graft": "dovetail.edit.graft",
    "plan_split": "dovetail.edit.split",
    "save": "dovetail.loading.save",
    "split": "dovetail.edit.split",
    "stamp": "dovetail.edit.stamp",
    "tensors": "dovetail.loading.tensors",
    "train": "dovetail.train.train",
    "validate": "dovetail.verbs",
    "verify": "dovetail.parity.verify",
}

__all__ = [
    "Actor",
    "DovetailError",
    "Family",
    "Finding",
    "Generator",
    "Report",
    "TensorRow",
    "act",
    "convert",
    "diff",
    "evaluate",
    "evaluate_policy",
    "families",
    "fingerprint",
    "generate",
    "graft",
    "inspect",
    "inspect_data",
    "load",
    "load_inputs",
    "load_part",
    "load_stage",
    "ls",
    "make",
    "merge",
    "open_checkpoint",
    "open_manifest",
    "plan_convert",
    "plan_graft",
    "plan_split",
    "save",
    "split",
    "stamp",
    "tensors",
    "train",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that `import dovetail` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "einops", "jaxtyping", "PIL", "tokenizers"):
            raise ImportError(
                f"dovetail.{name} needs {error.name}: pip install 'dovetail-weights[torch]'"
            ) from error
        raise


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """This package. The verbs `families` and `train` stay functions, although packages inside have their
    names."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
