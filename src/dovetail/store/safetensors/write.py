"""Writes safetensors, one tensor after the other.

The header is padded with spaces so that the data begins at a multiple of 64 bytes. A tensor without
chunks is a hole: full size, no room on the disk.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from dovetail.errors import WriteError
from dovetail.store.write.block_file import BlockFile, put
from dovetail.store.write.tensor_data import Skip, TensorData

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
        write_to(file, tensors, metadata)


def write_to(
    file: BinaryIO | BlockFile, tensors: Sequence[TensorData], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes header and tensors to an opened file.

    Raises:
        WriteError: a tensor gives more or fewer bytes than its dtype and shape need.
    """
    file.write(header_bytes(tensors, metadata))
    for tensor in tensors:
        begin = file.tell()
        for chunk in (Skip(tensor.bytes),) if tensor.chunks is None else tensor.chunks:
            if isinstance(chunk, Skip):
                file.seek(chunk.size, os.SEEK_CUR)
            else:
                put(file, chunk)
        if (written := file.tell() - begin) != tensor.bytes:
            raise WriteError(
                f"`{tensor.name}` gave {written:,} bytes",
                expected=f"{tensor.bytes:,}",
                file=file.name,
                hint="the source changed while it was read; run the command again",
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


def in_shards(sizes: Sequence[int], max_shard_size: int) -> list[range]:
    """Runs of tensors of at most `max_shard_size` bytes together; a larger one gets a shard of its own."""
    begins, total = [0], 0
    for i, size in enumerate(sizes):
        if i > begins[-1] and total + size > max_shard_size:
            begins.append(i)
            total = 0
        total += size
    return [range(begin, end) for begin, end in zip(begins, [*begins[1:], len(sizes)], strict=True)]
