"""The files of a checkpoint to be written: which tensors go into which, and how one is written.

A safetensors checkpoint is one file, or shards with an index where its tools open them; a torch checkpoint
is one file whatever its size, because a storage that two names share must lie in one file.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dovetail.declare.family import Container
from dovetail.dtypes import BITS
from dovetail.store.safetensors.write import in_shards
from dovetail.store.write.block_file import BlockFile
from dovetail.store.write.tensor_data import Chunk, Skip, TensorData
from dovetail.weights.lay_out import OutputTensor

DEFAULT_SHARD = 5_000_000_000
TORCH_FILE = "pytorch_model.bin"

# The bytes of a tensor, on their way to the file.
Chunks = Callable[[OutputTensor, BlockFile], Iterator[Chunk] | None]


class OutputFile(NamedTuple):
    """One weights file. `values` are plain values that a torch file holds beside its tensors."""

    name: str
    kind: str
    tensors: tuple[OutputTensor, ...]
    values: Mapping[str, Any] = {}

    @property
    def size(self) -> int:
        """The bytes of its tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def aliases(self) -> dict[str, str]:
        """Second names of tensors that it holds."""
        return {alias: tensor.name for tensor in self.tensors for alias in tensor.aliases}


def output_files(
    tensors: Sequence[OutputTensor],
    container: Container,
    *,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    values: Mapping[str, Any] | None = None,
) -> tuple[OutputFile, ...]:
    """The files for these tensors, whose names get the container's wrapper here.

    `format` (`safetensors` or `torch`) overrides what the layout's tools expect. One whose tools open one
    file only has no shards, whatever `max_shard_size` says.
    """
    kind = format or container.kind
    named = [_wrapped(one, container.wrapper) for one in tensors] if container.wrapper else [*tensors]
    if kind == "torch":
        name = container.file if container.kind == "torch" else TORCH_FILE
        return (OutputFile(name, kind, tuple(named), values or {}),)
    named.sort(key=lambda one: -BITS[one.dtype])  # wider first, so that every tensor is aligned
    most = sum(one.size for one in named) if container.is_one_file else max_shard_size
    runs = in_shards([one.size for one in named], most)
    shards = [tuple(named[run.start : run.stop]) for run in runs]
    if len(shards) == 1:
        return (OutputFile("model.safetensors", kind, shards[0]),)
    return tuple(
        OutputFile(f"model-{i:05d}-of-{len(shards):05d}.safetensors", kind, shard)
        for i, shard in enumerate(shards, 1)
    )


def _wrapped(one: OutputTensor, wrapper: str) -> OutputTensor:
    return one._replace(name=wrapper + one.name, aliases=tuple(wrapper + alias for alias in one.aliases))


def index_of(files: Sequence[OutputFile]) -> str | None:
    """The text of the index, None where a single file needs none."""
    if len(files) == 1:
        return None
    total = sum(file.size for file in files)
    places = sorted((tensor.name, file.name) for file in files for tensor in file.tensors)
    lines = [f"    {json.dumps(name)}: {json.dumps(file)}" for name, file in places]
    weight_map = "{\n" + ",\n".join(lines) + "\n  }"
    return f'{{\n  "metadata": {{\n    "total_size": {total}\n  }},\n  "weight_map": {weight_map}\n}}\n'


def write_file(path: str, file: OutputFile, chunks: Chunks, *, start: int = 0, sync: bool = True) -> None:
    """Writes one file; `chunks` gives the bytes of each tensor, None for a hole.

    What `chunks` leaves out before `start` is in place already.

    Raises:
        WriteError: a tensor gives more or fewer bytes than it should.
        OSError: the system refuses.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with BlockFile(path, file.size, start=start, sync=sync) as target:
        _write_to(
            target,
            file,
            [TensorData(one.name, one.dtype, one.shape, chunks(one, target)) for one in file.tensors],
        )


def places(file: OutputFile) -> dict[str, int]:
    """Where each tensor begins in the file: the one who writes it is asked, and writes nothing."""
    measured = _Measured(file.name)
    found: dict[str, int] = {}

    def skipped(tensor: OutputTensor) -> Iterator[Chunk]:
        found[tensor.name] = measured.tell()
        yield Skip(tensor.size, crc=0)

    tensors = [TensorData(one.name, one.dtype, one.shape, skipped(one)) for one in file.tensors]
    _write_to(measured, file, tensors)  # type: ignore[arg-type]  # all of a file that writers ask for
    return found


def _write_to(target: BlockFile, file: OutputFile, tensors: Sequence[TensorData]) -> None:
    if file.kind == "safetensors":
        from dovetail.store.safetensors.write import write_to

        write_to(target, tensors)
    else:
        from dovetail.store.torchfile import write as torchzip_writer

        torchzip_writer.write_to(target, tensors, aliases=file.aliases, values=file.values)


class _Measured:
    """A file that keeps nothing but its length."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._length = 0

    def tell(self) -> int:
        return self._length

    def write(self, data: bytes | memoryview) -> int:
        self._length += (size := memoryview(data).nbytes)
        return size

    def seek(self, count: int, _: int) -> int:
        self._length += count
        return self._length

    def truncate(self, size: int) -> int:
        return size

    def flush(self) -> None:
        pass
