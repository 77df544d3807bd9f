"""`make`: a checkpoint of any family at any size, with random weights or with none at all."""

import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from dovetail.dtypes import Dtype, dtype_of
from dovetail.edit.config_json import config_json
from dovetail.errors import FormatError, UsageError
from dovetail.families import family as family_of
from dovetail.layout.blueprint import Blueprint, blueprint
from dovetail.layout.family import Family, Layout
from dovetail.store.publish import publishing
from dovetail.store.safetensors_writer import write_sharded
from dovetail.store.tensor_data import TensorData

# Where each family's tools expect a torch file, per layout; anything else is called pytorch_model.bin.
_TORCH_NAMES = {
    "litgpt": "lit_model.pth",
    "native": "checkpoints/latest-checkpoint.pt",
    "datology": "checkpoints/latest-checkpoint.pt",
}


class Made(NamedTuple):
    """What was written."""

    path: str
    files: tuple[str, ...]
    tensors: int
    parameters: int
    bytes: int


def make(
    family: str,
    out: str | os.PathLike[str],
    *,
    size: str | None = None,
    layout: str | None = None,
    sizes: Mapping[str, int | str] | None = None,
    dtype: str = "bfloat16",
    sparse: bool = False,
    seed: int = 0,
    max_shard_size: int = 5_000_000_000,
) -> Made:
    """Writes a checkpoint with random weights; `sparse` writes true headers and no data.

    `size` is a published size (`2b`), `sizes` changes single ones (`{"text.layers": 2}`) or kinds
    (`{"vision": "siglip+pool"}`). The folder appears whole or not at all.

    Raises:
        UsageError: the family, layout, size or dtype does not exist, or `out` does.
        WriteError: there is no room or no permission.
    """
    one = family_of(family)
    if size is not None and size not in one.sizes:
        raise UsageError(f"{family} has no size `{size}`", hint=f"published sizes: {', '.join(one.sizes)}")
    chosen = one.sizes[size or next(iter(one.sizes))]
    plan = blueprint(one, _changed(one, chosen, sizes or {}))
    target = one.layout(layout) if layout else next(one for one in one.layouts if one.is_writable)
    spelled = _whole_bytes(dtype)
    tensors = planned(plan, target, spelled.name, sparse=sparse, seed=seed)
    total = sum(tensor.bytes for tensor in tensors)
    with publishing(os.fspath(out), 0 if sparse else total) as folder:
        files = _write(folder, target, tensors, max_shard_size)
        is_tied = None if not one.ties else not any(role in plan.kinds for role in one.ties)
        config = config_json(plan, dtype=spelled.torch, is_tied=is_tied)
        if config:
            with open(os.path.join(folder, "config.json"), "x", encoding="utf-8") as file:
                json.dump(config, file, indent=2)
                file.write("\n")
            files.append("config.json")
    width = spelled.bits // 8
    return Made(os.fspath(out), tuple(files), len(tensors), total // width, total)


def _changed(
    family: Family, published: Mapping[str, int | str], given: Mapping[str, int | str]
) -> dict[str, int | str]:
    """The published sizes, but for those that the given ones replace.

    Gone as well are those that must equal a given size, and those that a given kind of part does not have.
    """

    def gives_way(name: str) -> bool:
        role, dot, dim = name.partition(".")
        if dot and role in given:
            return dim not in family.kind(role, str(given[role]).split("+")[0]).dims
        return _root(family, name) in roots

    roots = {_root(family, name) for name in given}
    return {**{name: size for name, size in published.items() if not gives_way(name)}, **given}


def _root(family: Family, name: str) -> str:
    """The size that stands for this one and all that must be equal to it."""
    while name in family.joined:
        name = family.joined[name]
    return name


def _whole_bytes(dtype: str) -> Dtype:
    try:
        found = dtype_of(dtype)
    except FormatError as error:
        raise UsageError(error.message, hint="dtypes: bfloat16, float16, float32, float64") from None
    if found.bits % 8:
        raise UsageError(f"cannot make values of dtype {found.name}: they share bytes")
    return found


def planned(plan: Blueprint, layout: Layout, dtype: str, *, sparse: bool, seed: int = 0) -> list[TensorData]:
    """The tensors of a layout, each with its initial values (or none)."""
    import numpy as np

    from dovetail.layout.initial import initial_chunks, initial_rule

    tensors = []
    for i, stored in enumerate(plan.stored(layout)):
        rule = initial_rule(
            plan.kinds[stored.role].id if stored.role in plan.kinds else "", stored.leaves[0].name
        )
        seeds = np.random.SeedSequence(seed, spawn_key=(i,))
        chunks = None if sparse else initial_chunks(rule, stored.shape, dtype, seeds)
        tensors.append(TensorData(stored.name, dtype, stored.shape, chunks))
    return tensors


def _write(folder: str, layout: Layout, tensors: list[TensorData], max_shard_size: int) -> list[str]:
    if layout.container == "safetensors":
        return write_sharded(folder, tensors, max_shard_size)
    from dovetail.store.torchzip_writer import write_torch

    name = _TORCH_NAMES.get(
        layout.id, "lit_model.pth" if layout.id.startswith("litgpt") else "pytorch_model.bin"
    )
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    nested = [
        tensor._replace(name=f"model/{tensor.name}") if "/" in tensor.name else tensor for tensor in tensors
    ]
    write_torch(path, nested)
    return [name]
