"""Writes the zip file of torch.save without torch, one tensor after the other.

The file is what `torch.load(PATH, weights_only=True)` and `mmap=True` expect, byte for byte laid out as
torch lays it out: the pickle first, each storage at a multiple of 64, numbered in the order of the
file, with its checksum behind it. Nothing is written twice or gone back to, so chunks may come from
anywhere. A tensor without chunks is all zeros and becomes a hole: a checkpoint of full size that takes
no room on the disk; its checksum is computed, not read.

The same tensors and values give the same bytes.
"""

import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO

from dovetail.dtypes import DTYPES
from dovetail.errors import WriteError
from dovetail.store.torchfile.pickle.pickled import Storage, TensorRecord
from dovetail.store.torchfile.pickle.pickler import pickle_of
from dovetail.store.write.block_file import BlockFile, put
from dovetail.store.write.tensor_data import Chunk, Copied, Skip, TensorData

try:
    from isal.isal_zlib import crc32
except ImportError:  # there is none for this processor
    from zlib import crc32

_FOLDER = "archive"
_ALIGNMENT = 64
_FULL16, _FULL32 = 0xFFFF, 0xFFFF_FFFF
_UTF8, _DESCRIPTOR = 1 << 11, 1 << 3
# CRC-32's polynomial, lowest power first as zlib has it: bit 31 is x^0 (ITU-T V.42, 8.1.1.6.2).
_POLYNOMIAL, _ONE, _X8 = 0xEDB8_8320, 1 << 31, 1 << 23


def write_torch(
    path: str,
    tensors: Sequence[TensorData],
    *,
    aliases: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Writes tensors and plain values to a new file, and leaves none behind when that fails.

    Args:
        tensors: in the order of the file; `/` in a name begins a nested dict.
        aliases: further names of tensors that are stored once: {further name: name}.
        values: what else the dict holds, e.g. `hyper_parameters`.

    Raises:
        WriteError: two names exclude each other, a tensor gives more or fewer bytes than it needs, a
            value is not plain, or the file exists or cannot be written.
    """
    with _writing(path):
        file = open(path, "xb")  # noqa: SIM115 - closed below, and removed when writing fails
    try:
        with file:
            write_to(file, tensors, aliases=aliases, values=values)
    except BaseException:
        os.unlink(path)
        raise


def write_to(
    file: BinaryIO | BlockFile,
    tensors: Sequence[TensorData],
    *,
    aliases: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """The same to an opened file.

    Raises:
        WriteError: as `write_torch`.
    """
    pickle = pickle_of(_tree(tensors, aliases or {}, values or {}))
    _write(_ZipWriter(file, str(file.name)), pickle, tensors)


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Says of a refusal by the system that it is about this file."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write the file: {error.strerror}", file=path, hint="choose another place"
        ) from error


def _write(writer: "_ZipWriter", pickle: bytes, tensors: Sequence[TensorData]) -> None:
    writer.add("data.pkl", len(pickle), [pickle], "the pickle")
    # Format 1 promises that storages are in numerical order and laid out by torch's rule.
    for name, text in (
        (".format_version", b"1"),
        (".storage_alignment", b"%d" % _ALIGNMENT),
        ("byteorder", b"little"),
    ):
        writer.add(name, len(text), [text], name)
    for key, tensor in enumerate(tensors):
        writer.add(f"data/{key}", tensor.bytes, tensor.chunks, tensor.name)
    writer.add("version", 2, [b"3\n"], "version")
    writer.finish()


def _tree(
    tensors: Sequence[TensorData], aliases: Mapping[str, str], values: Mapping[str, Any]
) -> dict[Any, Any]:
    """The nested dict to pickle; storages are numbered in the order of the tensors."""
    tree: dict[Any, Any] = {}
    records: dict[str, TensorRecord] = {}
    for key, tensor in enumerate(tensors):
        records[tensor.name] = _record(tensor, str(key))
        _plant(tree, tensor.name, records[tensor.name])
    for alias, name in aliases.items():
        if name not in records:
            raise WriteError(
                f"there is no tensor `{name}`, whose bytes `{alias}` is to share",
                hint="write the tensor before its second name",
            )
        _plant(tree, alias, records[name])
    _merge(tree, values, "")
    return tree


def _record(tensor: TensorData, key: str) -> TensorRecord:
    """A tensor as a view of a storage of its own."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None or dtype.bits < 8:
        raise WriteError(
            f"torch files do not hold {tensor.dtype}",
            tensor=tensor.name,
            hint="write safetensors instead: --format safetensors",
        )
    strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    storage = Storage(key, tensor.dtype, math.prod(tensor.shape))
    return TensorRecord(storage, tensor.dtype, 0, tuple(tensor.shape), tuple(strides))


def _plant(tree: dict[Any, Any], name: str, record: TensorRecord) -> None:
    """Puts a tensor where its name leads."""
    *above, last = name.split("/")
    for part in above:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise WriteError(
                f"`{part}` is to be a tensor and to hold others",
                tensor=name,
                hint="write safetensors instead: --format safetensors",
            )
    if last in tree:
        raise WriteError(
            "the name of a tensor is taken", tensor=name, hint="give the tensors different names"
        )
    tree[last] = record


def _merge(tree: dict[Any, Any], values: Mapping[Any, Any], place: str) -> None:
    """Puts plain values beside the tensors; dicts of both are joined."""
    for key, value in values.items():
        there = tree.get(key)
        if isinstance(there, dict) and isinstance(value, Mapping):
            _merge(there, value, f"{place}{key}/")
        elif key in tree:
            raise WriteError(
                "a value has the name of tensors",
                value=f"{place}{key}",
                hint="write safetensors instead: --format safetensors",
            )
        else:
            tree[key] = value


class _ZipWriter:
    """A zip file in the making, as `PyTorchStreamWriter` makes it."""

    def __init__(self, file: BinaryIO | BlockFile, path: str) -> None:
        self.file = file
        self.path = path
        self.position = 0
        self.directory: list[bytes] = []

    def add(self, name: str, size: int, chunks: Iterable[Chunk] | None, what: str) -> None:
        """Writes one entry: header, padding, data, descriptor."""
        path, header = f"{_FOLDER}/{name}".encode(), self.position
        is_big, is_far = size >= _FULL32, header >= _FULL32
        wide = struct.pack("<2Q", size, size) * is_big + struct.pack("<Q", header) * is_far
        extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        padding = -(header + 30 + len(path) + len(extra) + 4) % _ALIGNMENT
        # Zero-length entries have no descriptor.
        flags = _UTF8 | (_DESCRIPTOR if size else 0)
        filled = extra + struct.pack("<2s H", b"FB", padding) + b"Z" * padding
        self.write(struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(path), len(filled)))
        self.write(path + filled)
        crc = self.data(size, chunks, what)
        if size:
            form = "<4sI2Q" if is_big or is_far else "<4s3I"
            self.write(struct.pack(form, b"PK\7\x08", crc, size, size))
        length, place = min(size, _FULL32), min(header, _FULL32)
        fields = (0, 0, flags, 0, 0, 0, crc, length, length, len(path), len(extra), 0, 0, 0, 0, place)
        self.directory.append(struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + path + extra)

    def data(self, size: int, chunks: Iterable[Chunk] | None, what: str) -> int:
        """Writes the data of an entry; gives its checksum."""
        crc, start = 0, self.position
        for chunk in (Skip(size),) if chunks is None else chunks:
            if isinstance(chunk, Skip):
                self.skip(chunk.size)
                second = crc_of_zeros(chunk.size) if chunk.crc is None else chunk.crc
                crc = crc_of_both(crc, second, chunk.size)
            else:
                self.write(chunk)
                crc = crc32(chunk.data if isinstance(chunk, Copied) else chunk, crc)
        if (written := self.position - start) != size:
            raise WriteError(
                f"`{what}` gave {written:,} bytes",
                expected=f"{size:,}",
                file=self.path,
                hint="the source changed while it was read; run the command again",
            )
        return crc

    def write(self, data: bytes | memoryview | Copied) -> None:
        """Writes bytes."""
        with _writing(self.path):
            put(self.file, data)
        self.position += memoryview(data.data if isinstance(data, Copied) else data).nbytes

    def skip(self, size: int) -> None:
        """Leaves a hole."""
        self.position += size
        with _writing(self.path):
            self.file.seek(size, os.SEEK_CUR)

    def finish(self) -> None:
        """Writes the directory and the records that lead to it."""
        start, count = self.position, len(self.directory)
        self.write(b"".join(self.directory))
        end, length = self.position, self.position - start
        self.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start))
        self.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        count, length, start = min(count, _FULL16), min(length, _FULL32), min(start, _FULL32)
        self.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, length, start, 0))
        with _writing(self.path):
            self.file.flush()


@cache
def crc_of_zeros(size: int) -> int:
    """The CRC-32 of that many zero bytes, in time that grows with the digits of the number.

    A zero byte multiplies the register by x^8 modulo the polynomial; the register starts as all ones
    and is inverted at the end.

    >>> crc_of_zeros(4) == crc32(bytes(4))
    True
    """
    return _product(_FULL32, _power(size)) ^ _FULL32


def crc_of_both(first: int, second: int, size: int) -> int:
    """The CRC-32 of two runs of bytes, from that of each and the size of the second.

    >>> crc_of_both(crc32(b"dove"), crc32(b"tail"), 4) == crc32(b"dovetail")
    True
    """
    return _product(first, _power(size)) ^ second


@cache
def _power(size: int) -> int:
    """x^8 to the power of a size."""
    result, power = _ONE, _X8
    while size:
        if size & 1:
            result = _product(result, power)
        power = _product(power, power)
        size >>= 1
    return result


def _product(left: int, right: int) -> int:
    """Two polynomials over GF(2), multiplied modulo CRC-32's."""
    product, bit = 0, _ONE
    while bit:
        if left & bit:
            product ^= right
        right = (right >> 1) ^ (_POLYNOMIAL if right & 1 else 0)
        bit >>= 1
    return product
