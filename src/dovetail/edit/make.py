"""`make`: a checkpoint of any family at any size, with random weights or with none at all."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dovetail.declare.blueprint import Blueprint, blueprint
from dovetail.declare.family import Family, Layout
from dovetail.dtypes import Dtype, dtype_of
from dovetail.edit.settings import Told, sorted_out, with_settings
from dovetail.edit.side_files.config_json import config_json
from dovetail.edit.write.files import DEFAULT_SHARD, index_of, output_files, write_file
from dovetail.errors import FormatError, UsageError, suggestion
from dovetail.explain.corrections import model_type_of
from dovetail.explain.part_sizes import KnownSizes
from dovetail.families import family as family_of
from dovetail.store.safetensors.write import INDEX
from dovetail.store.write.block_file import BlockFile
from dovetail.store.write.partial import check_files
from dovetail.store.write.publish import publishing
from dovetail.store.write.tensor_data import Chunk
from dovetail.weights.fresh import fresh_model
from dovetail.weights.lay_out import OutputTensor, Target, lay_out
from dovetail.weights.ties import tied_copies


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
    set: Mapping[str, Any] | None = None,
    dtype: str = "bfloat16",
    sparse: bool = False,
    seed: int = 0,
    max_shard_size: int = DEFAULT_SHARD,
) -> Made:
    """Writes a checkpoint with random weights; `sparse` writes true headers and no data.

    `size` is a published size (`2b`), `set` changes single ones (`{"text.layers": 2}`), kinds
    (`{"vision": "siglip+pool"}`) or what config.json says of the model beside its sizes
    (`{"text.rope_theta": 1e6}`). The folder appears whole or not at all; a run that fails takes back what
    it wrote, which the same call makes again.

    Raises:
        UsageError: the family, layout, size, setting or dtype does not exist, or `out` does.
        WriteError: there is no room or no permission.
    """
    one = family_of(family)
    if size is not None and size not in one.sizes:
        hint = suggestion(size, one.sizes, f"published sizes: {', '.join(one.sizes)}")
        raise UsageError(f"{one.id} has no size `{size}`", hint=hint)
    usual = size or next(iter(one.sizes), None)
    chosen = one.sizes[usual] if usual else {}  # a family without published sizes wants all of them
    told = sorted_out(one, set or {})
    plan = blueprint(one, _changed(one, chosen, told.sizes))
    target = one.layout(layout) if layout else next(one for one in one.layouts if one.is_writable)
    spelled = _whole_bytes(told.dtype or dtype)
    side = _side_files(plan, target, spelled, told)
    tensors = _laid_out(plan, target, spelled.name, seed)
    files = output_files(tensors, target.container, max_shard_size=max_shard_size)
    total = sum(file.size for file in files)
    if index := index_of(files):
        side[INDEX] = index
    names = (*(file.name for file in files), *side)
    with publishing(os.fspath(out), 0 if sparse else total) as folder:
        for file in files:
            write_file(os.path.join(folder, file.name), file, _hole if sparse else _chunks)
        for name, text in side.items():
            with open(os.path.join(folder, name), "x", encoding="utf-8") as written:
                written.write(text)
        check_files(folder, names)
    return Made(os.fspath(out), names, len(tensors), total * 8 // spelled.bits, total)


def _laid_out(plan: Blueprint, layout: Layout, dtype: str, seed: int) -> list[OutputTensor]:
    """The tensors of a layout. One that holds a single part is that part cut out of the model."""
    leaves = fresh_model(plan, dtype, seed)
    if layout.stores_ties:
        leaves += tied_copies(plan.family, leaves)
    if len(layout.mounts) == 1:
        leaves = [leaf for leaf in leaves if leaf.role in layout.mounts]
    roles = {leaf.role for leaf in leaves}
    parts = {role: plan.kinds.get(role, plan.family.parts[role][0]) for role in roles}
    sizes = {role: KnownSizes(plan.dims(role)) for role in roles}
    return lay_out(leaves, Target(plan.family, layout, parts, sizes))


def _chunks(tensor: OutputTensor, _: BlockFile) -> Iterator[Chunk]:
    return (chunk for _, chunk in tensor.chunks())


def _hole(_: OutputTensor, __: BlockFile) -> None:
    return None


def _side_files(plan: Blueprint, layout: Layout, dtype: Dtype, told: Told) -> dict[str, str]:
    is_tied = None if not plan.family.ties else not any(role in plan.kinds for role in plan.family.ties)
    config = config_json(plan, dtype=dtype.torch, is_tied=is_tied, layout=layout)
    config = with_settings(config, plan, told.settings)
    if told.variant is not None:
        config["model_type"] = model_type_of(plan.family, config["model_type"], told.variant)
    return {"config.json": json.dumps(config, indent=2) + "\n"} if config else {}


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
    hint = "dtypes: bfloat16, float16, float32, float64"
    try:
        found = dtype_of(dtype)
    except FormatError as error:
        raise UsageError(error.message, hint=hint) from None
    if found.bits % 8:
        raise UsageError(f"cannot make values of dtype {found.name}: they share bytes", hint=hint)
    return found
