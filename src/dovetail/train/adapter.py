"""The folder of an adapter, as peft writes it for the model of transformers: `adapter_model.safetensors`.

Its tensors are called by the modules that transformers has in memory, which for some families are not those
in the files. Names come from the family's layouts, so that peft opens the folder on the model that
`from_pretrained` gives, and dovetail on its own.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.family import Layout
from dovetail.edit.conversion import target
from dovetail.errors import CheckpointError, UsageError
from dovetail.train.lora import Lora, factors, put_factors, whole_modules
from dovetail.weights.lay_out import lay_out
from dovetail.weights.ties import tied_copies

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class Names:
    """What the tensors of a model are called in transformers' memory, by our own names.

    `copies` are heads that share a table, by the table: peft, which trains a table whole as a copy of it,
    would leave them with the old one.
    """

    def __init__(self, base: Path, *, like: nn.Module) -> None:
        values = vars(like)["values"]
        with opened(base, as_=values.family.id, to_be="adapted") as found:
            layout = _in_memory(found)
            leaves = list(found.leaves.values())
            copies = [one for one in tied_copies(found.family, leaves) if one.role in layout.mounts]
            tensors = lay_out([*leaves, *copies], target(found, layout))
            self.copies = {found.family.ties[one.role]: one.name for one in copies}
        self._stored = {one.leaves[0].name: one.name for one in tensors if len(one.leaves) == 1}
        self._layout = layout.id

    def tensor(self, name: str) -> str:
        """What a tensor is called.

        Raises:
            UsageError: it is a part of another one there.
        """
        if name not in self._stored:
            raise UsageError(
                f"`{name}` is a part of another tensor in layout {self._layout}: an adapter cannot hold it",
                hint="leave it out of --lora-targets, or --merge the result",
            )
        return self._stored[name]

    def module(self, name: str) -> str:
        """What a module with a weight is called."""
        return self.tensor(f"{name}.weight").removesuffix(".weight")


def _in_memory(found: Checkpoint) -> Layout:
    """The layout of the names that transformers has in memory; the checkpoint's own where it has no such
    model."""
    here = found.layouts[0] if found.layouts else None
    if here is not None and here.id == "hf-base":
        return here
    known = [one for one in found.family.layouts if one.is_in_memory]
    known += [
        one
        for one in found.family.layouts
        if one.is_writable and any(reader.startswith("transformers") for reader in one.readers)
    ]
    roles = found.parts.keys()
    fitting = [one for one in known if all(role in one.mounts for role in roles)]
    chosen = fitting[0] if fitting else here
    assert chosen is not None, "a model that was loaded has a layout"
    return chosen


def write_adapter(
    folder: str, model: nn.Module, state: Mapping[str, Tensor], lora: Lora, *, names: Names, base: Path
) -> None:
    """Writes the adapter of a model into a folder that is there; `state` has its values."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    found = factors(state)
    wholes = sorted(whole_modules(model, lora)) if lora.whole else []
    tensors = {}
    for name, (a, b) in found.items():
        module = _PREFIX + names.module(name)
        tensors[f"{module}.lora_A.weight"] = a
        tensors[f"{module}.lora_B.weight"] = b
    whole = {name: state[name] for name in _of_modules(state, wholes)}
    whole |= {names.copies[name]: one for name, one in whole.items() if name in names.copies}
    tensors |= {_PREFIX + names.tensor(name): one for name, one in whole.items()}
    modules = dict.fromkeys(names.tensor(name).rpartition(".")[0] for name in whole)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=[names.module(name) for name in found],
        modules_to_save=list(modules) or None,
        base_model_name_or_path=os.path.abspath(base),
        inference_mode=True,
    )
    plain = {name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}
    save_file(plain, os.path.join(folder, WEIGHTS), metadata={"format": "pt"})
    config.save_pretrained(folder)
    path = os.path.join(folder, CONFIG)
    with open(path, encoding="utf-8") as file:
        said = json.load(file)
    said["target_modules"] = sorted(said["target_modules"])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(said, file, indent=2, sort_keys=True)
        file.write("\n")


def read_adapter(folder: str, model: nn.Module, lora: Lora, *, names: Names) -> None:
    """Puts the adapter in a folder into a model whose layers are adapted already.

    Raises:
        CheckpointError: it has other tensors than the model has room for.
    """
    from safetensors.torch import load_file

    path = os.path.join(folder, WEIGHTS)
    if not os.path.exists(path):
        raise CheckpointError(f"`{folder}` holds no adapter: no {WEIGHTS}", hint="go on as it was begun")
    stored = load_file(path)
    state = model.state_dict()
    layers = factors(state)
    whole = {
        name: stored.pop(_PREFIX + names.tensor(name), None)
        for name in _of_modules(state, sorted(whole_modules(model, lora)))
    }
    for name in whole.keys() & names.copies.keys():
        stored.pop(_PREFIX + names.tensor(names.copies[name]), None)
    found = {
        name: (
            stored.pop(f"{_PREFIX}{names.module(name)}.lora_A.weight", None),
            stored.pop(f"{_PREFIX}{names.module(name)}.lora_B.weight", None),
        )
        for name in layers
    }
    missing = [name for name, one in whole.items() if one is None]
    missing += [name for name, (a, b) in found.items() if a is None or b is None]
    if missing or stored:
        raise CheckpointError(
            f"`{folder}` holds another adapter than the one that is trained",
            lacking=missing[0] if missing else None,
            has_also=next(iter(stored), None),
            lora=str(asdict(lora)),
            hint="give the same --lora-targets and --lora-whole as then",
        )
    put_factors(model, {name: (a, b) for name, (a, b) in found.items() if a is not None and b is not None})
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, one in whole.items():
            assert one is not None
            parameters[name].copy_(one)


def _of_modules(state: Mapping[str, Tensor], modules: Collection[str]) -> list[str]:
    """The tensors of modules."""
    return [name for name in state if name.rpartition(".")[0] in modules]
