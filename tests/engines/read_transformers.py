"""Runs in an environment of transformers: opens a checkpoint and says what the library says and computes.

    python read_transformers.py FOLDER CLASS INPUTS.pt OUTPUTS.pt

Writes the first of the outputs that it finds, and prints a JSON line: keys missing, unexpected, mismatched,
and every warning.
"""

import json
import logging
import sys
import warnings
from typing import Any

import torch
import transformers

NAMES = ("logits", "logits_per_image", "last_hidden_state")


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def computed(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model says."""
    known = set(model.forward.__code__.co_varnames) | set(NAMES)
    wrapped = getattr(model.forward, "__wrapped__", None)
    while wrapped is not None:
        known |= set(wrapped.__code__.co_varnames)
        wrapped = getattr(wrapped, "__wrapped__", None)
    with torch.no_grad():
        out = model(**{name: value for name, value in inputs.items() if name in known})
    return next(torch.as_tensor(getattr(out, name)) for name in NAMES if getattr(out, name, None) is not None)


def opened(folder: str, kind: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model, and what was said while it was loaded."""
    heard = Heard()
    transformers.utils.logging.get_logger("transformers").addHandler(heard)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        auto = transformers.AutoConfig.from_pretrained(folder)
        loader = getattr(transformers, kind)
        model, found = loader.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    said = [*heard.said, *(str(one.message) for one in caught if "deprecat" not in str(one.message).lower())]
    keys = {name: sorted(map(str, names)) for name, names in found.items() if names}
    return model.eval(), {"keys": keys, "warnings": said, "config": type(auto).__name__}


def main() -> None:
    folder, kind, inputs, outputs = sys.argv[1:]
    model, report = opened(folder, kind)
    torch.save(computed(model, torch.load(inputs)), outputs)
    print(json.dumps({**report, "version": transformers.__version__}))


if __name__ == "__main__":
    main()
