"""Writes safetensors, one tensor after the other: a single file, or shards and their index.

The header is padded with spaces so that the data begins at a multiple of 64 bytes. A tensor without
chunks is a hole: full size, no room on the disk.
"""

import json
import os
from collections.abc import Mapping, Sequence

from dovetail.errors import WriteError
from dovetail.store.tensor_data import TensorData

_ALIGNMENT = 64
INDEX = "model.safetensors.index.json"


def write_safetensors(
    path: str, tensors: Sequence[TensorData], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes one file.

    Raises:
        WriteError: a tensor gives more or fewer bytes than its dtype and shape need.
    """
    with open(path, "xb") as file:
        file.write(header_bytes(tensors, metadata))
        for tensor in tensors:
            if tensor.chunks is None:
                file.seek(tensor.bytes, os.SEEK_CUR)
                continue
            written = sum(file.write(chunk) for chunk in tensor.chunks)
            if written != tensor.bytes:
                raise WriteError(
                    f"`{tensor.name}` gave {written:,} bytes", expected=f"{tensor.bytes:,}", file=path
                )
        file.truncate(file.tell())


def header_bytes(tensors: Sequence[TensorData], metadata: Mapping[str, str] | None = None) -> bytes:
    """The length field and the header for tensors in this order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_sharded(folder: str, tensors: Sequence[TensorData], max_shard_size: int) -> list[str]:
    """Writes `model.safetensors`, or shards of at most `max_shard_size` bytes and their index.

    A tensor larger than a shard gets one of its own. Gives the names of the files.
    """
    shards = in_shards(tensors, max_shard_size)
    if len(shards) == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), shards[0])
        return ["model.safetensors"]
    weight_map: dict[str, str] = {}
    names = []
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(os.path.join(folder, name), shard)
        weight_map |= {tensor.name: name for tensor in shard}
        names.append(name)
    total = sum(tensor.bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    with open(os.path.join(folder, INDEX), "x", encoding="utf-8") as file:
        json.dump(index, file, indent=2)
        file.write("\n")
    return [*names, INDEX]


def in_shards(tensors: Sequence[TensorData], max_shard_size: int) -> list[list[TensorData]]:
    """The tensors in order, cut into runs of at most `max_shard_size` bytes."""
    shards: list[list[TensorData]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards
