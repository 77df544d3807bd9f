"""A checkpoint as bytes with names: what every reader gives, whatever the container.

A store knows no family. It says which tensors there are, their dtype and shape, which of them share
bytes, where the bytes are, and what else the files say.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import prod
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from dovetail.dtypes import BITS
from dovetail.errors import CheckpointError
from dovetail.report import Finding
from dovetail.store.folder import Folder
from dovetail.store.source import ByteSource, LocalSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE = 1 << 20
_SPREAD = 4  # how many times its own size a strided view may cover and still be read at once


class Entry(NamedTuple):
    """One tensor. `start` and `end` are byte offsets in the file, -1 where only the header is known.

    `dtype` is the safetensors spelling, "" where the container does not say it, and `shape` is None
    likewise. `strides` counts elements and is None for the ordinary row-major tensor.
    """

    dtype: str
    shape: tuple[int, ...] | None
    file: int
    start: int
    end: int
    strides: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        """The number of elements, 0 when the shape is not known."""
        return 0 if self.shape is None else prod(self.shape)

    @property
    def bytes(self) -> int:
        """The bytes that the elements take, 0 when dtype or shape is not known."""
        return self.elements * BITS[self.dtype] // 8 if self.dtype else 0


_KIND = itemgetter(0, 1)  # dtype and shape, as Entry has them

# How many tensors there are of each dtype and shape: a few dozen, whatever the number of tensors.
Kinds = Counter[tuple[str, tuple[int, ...] | None]]


def kinds_of(entries: Iterable[Entry]) -> Kinds:
    """How many there are of each dtype and shape."""
    return Counter(map(_KIND, entries))


def total_elements(kinds: Kinds) -> int:
    """The elements of all of them, unknown shapes left out."""
    return sum(prod(shape) * count for (_, shape), count in kinds.items() if shape is not None)


def total_bytes(kinds: Kinds) -> int:
    """The bytes of all of them, unknown dtypes and shapes left out."""
    return sum(
        prod(shape) * BITS[dtype] // 8 * count
        for (dtype, shape), count in kinds.items()
        if dtype and shape is not None
    )


class Shard(NamedTuple):
    """What one file holds."""

    entries: dict[str, Entry]
    metadata: Mapping[str, Any] = MappingProxyType({})
    aliases: Mapping[str, str] = MappingProxyType({})
    findings: tuple[Finding, ...] = ()


class AbsentShards(NamedTuple):
    """What an index promises and is not here.

    `tensors` are the names in each shard that is not here, `total` is how many shards there should be.
    `pointers` are shards of which only the Git LFS pointer is here.
    """

    index_file: str
    total: int
    tensors: Mapping[str, tuple[str, ...]]
    pointers: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether no shard is here."""
        return len(self.tensors) == self.total

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors of these shards."""
        return tuple(name for names in self.tensors.values() for name in names)


class Store:
    """An opened checkpoint.

    `aliases` maps a name to the name whose bytes it shares. `limits` says what this kind of input
    cannot tell, in words for the report. `folder` holds the files, `beside` are the folders in which side
    files (config.json …) are looked for. `seconds` is how long opening took. `absent` are shards that an
    index names; if none of them is here, `entries` has what the index says of them.
    """

    def __init__(
        self,
        path: str,
        format: str,
        *,
        files: Sequence[str],
        entries: dict[str, Entry],
        metadata: dict[str, Any] | None = None,
        aliases: dict[str, str] | None = None,
        findings: Sequence[Finding] = (),
        limits: tuple[str, ...] = (),
        folder: Folder | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.files = tuple(files)
        self.entries = entries
        self.metadata = metadata or {}
        self.aliases = aliases or {}
        self.findings = list(findings)
        self.limits = limits
        self.seconds = 0.0
        self.folder = folder
        self.absent: AbsentShards | None = None
        self.beside: tuple[Folder, ...] = (folder,) if folder else ()
        self._side_files: list[tuple[Folder, dict[str, int]]] | None = None
        self._sources: dict[int, ByteSource] = {}
        self._kinds: Kinds | None = None

    @property
    def has_shapes(self) -> bool:
        """Whether shapes are known at all (an index gives names only)."""
        return not any(shape is None for _, shape in self.kinds())

    def kinds(self, without: Collection[str] = ()) -> Kinds:
        """How many tensors there are of each dtype and shape, some names left out."""
        if self._kinds is None:
            self._kinds = kinds_of(self.entries.values())
        kinds = self._kinds.copy()
        for name in without:
            if (entry := self.entries.get(name)) is not None:
                kinds[entry.dtype, entry.shape] -= 1
        return +kinds

    @property
    def has_bytes(self) -> bool:
        """Whether the values can be read."""
        return min(map(itemgetter(3), self.entries.values()), default=0) >= 0

    def source(self, file: int) -> ByteSource:
        """The opened file of this number.

        Raises:
            CheckpointError: this store has headers only.
        """
        if file not in self._sources:
            if self.folder is None:
                raise CheckpointError(
                    "this input holds no values, only names and shapes",
                    file=self.path,
                    hint="give the weights themselves; a listing or index has names only",
                )
            self._sources[file] = self.folder.open(self.files[file])
        return self._sources[file]

    def __getitem__(self, name: str) -> "NDArray[Any]":
        """The values of one tensor as an array; bfloat16 and floats of 8 bits as float32, which holds them.

        Raises:
            CheckpointError: the store has headers only.
            KeyError: it has no such tensor, or one of a dtype that is no number of numpy's.
        """
        from dovetail.store.cast import to_array

        entry = self._stored(name)
        assert entry.shape is not None
        return to_array(self.read(name), entry.dtype).reshape(entry.shape)

    def read(self, name: str) -> bytes:
        """The bytes of one tensor in row-major order.

        Raises:
            CheckpointError: the store has headers only.
            FormatError: the file has become shorter since it was opened.
        """
        entry = self._stored(name)
        source = self.source(entry.file)
        if entry.strides is not None:
            return _gather(source, entry, f"tensor `{name}`")
        return source.exactly(entry.start, entry.end - entry.start, f"tensor `{name}`")

    def blocks(self, name: str, size: int = 1 << 20) -> Iterator[bytes]:
        """The bytes of one tensor in pieces of at most `size`, whole elements each.

        Raises:
            CheckpointError: the store has headers only.
        """
        entry = self._stored(name)
        if entry.strides is not None:
            yield self.read(name)
            return
        source = self.source(entry.file)
        for offset in range(entry.start, entry.end, size):
            yield source.exactly(offset, min(size, entry.end - offset), f"tensor `{name}`")

    def _stored(self, name: str) -> Entry:
        entry = self.entries[name]
        if entry.start < 0:
            raise CheckpointError(
                "this input holds no values, only names and shapes",
                file=self.path,
                tensor=name,
                hint="give the weights themselves; a listing or index has names only",
            )
        return entry

    def close(self) -> None:
        """Lets go of all files."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()

    def side_file(self, name: str, limit: int = 64 << 20) -> bytes | None:
        """A small file beside the weights, None if there is none.

        Raises:
            CheckpointError: it is longer than `limit` bytes, leads out of the folder, or cannot be opened.
            RemoteError: a server did not give it.
        """
        if self._side_files is None:
            self._side_files = [(folder, folder.files()) for folder in self.beside]
        for folder, files in self._side_files:
            if name in files:
                return folder.read(name, limit)
        return None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _gather(source: ByteSource, entry: Entry, what: str) -> bytes:
    """The elements of a strided view, in row-major order.

    A view that is spread thinly over its storage is read piece by piece along its widest axis, so that
    what is between the pieces is not read: memory is a few times that of the tensor.
    """
    import numpy as np

    width = BITS[entry.dtype] // 8
    strides = [stride * width for stride in entry.strides or ()]
    gathered = np.empty(entry.shape or (), dtype=f"V{width}")

    def fill(part: np.ndarray[Any, Any], start: int, steps: list[int]) -> None:
        reach = [(size - 1) * step for size, step in zip(part.shape, steps, strict=True)]
        extent = sum(reach) + width
        if extent <= max(_SPREAD * part.nbytes, _PIECE):
            flat = np.frombuffer(source.exactly(start, extent, what), dtype=f"V{width}")
            part[...] = np.lib.stride_tricks.as_strided(flat, part.shape, steps)
            return
        axis = reach.index(max(reach))
        # as many along the axis as fit into one piece
        num = max(1, min(part.shape[axis] // 2, (_PIECE - extent + reach[axis]) // steps[axis]))
        for first in range(0, part.shape[axis], num):
            here = (slice(None),) * axis + (slice(first, first + num),)
            fill(part[here], start + first * steps[axis], steps)

    if gathered.size:
        fill(gathered, entry.start, strides)
    return gathered.tobytes()


def local_path(store: Store, file: int) -> str | None:
    """Where a file of the store is on this machine, None for a remote one."""
    source = store.source(file)
    path = getattr(source, "path", None)
    return os.fspath(path) if path else None


def local_sources(store: Store) -> list[LocalSource]:
    """The files of a store that are on this machine."""
    if store.folder is None or not store.has_bytes:
        return []
    sources = [store.source(file) for file in range(len(store.files))]
    return [source for source in sources if isinstance(source, LocalSource)]
