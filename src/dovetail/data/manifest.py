"""A manifest opened: its samples by number, made when they are asked for.

    train.json  train.jsonl          records (json_index.py says which forms)
    mix.yaml                         datasets: [{json_path: a.json, sampling_strategy: first:25%}, …]
    {a,b}.json                       several files, one after the other
    shard-{000..009}.tar             WebDataset shards
    folder/                          what `datasets` saved to disk

Opening finds the places of the records and reads none of them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Int64

from dovetail.data.folder_records import FolderRecords, is_saved_folder
from dovetail.data.image_root import ImageRoot
from dovetail.data.json_records import JsonRecords
from dovetail.data.records import Records
from dovetail.data.sample import Sample
from dovetail.data.sampling import chosen
from dovetail.errors import DataError, UsageError, listed

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
Numbers = Int64[np.ndarray, " _"]


class Source(NamedTuple):
    """Records and which of them are taken: all (`numbers` None), or those of these numbers."""

    records: Records
    strategy: str = "all"
    numbers: Numbers | None = None

    def __len__(self) -> int:
        return len(self.records) if self.numbers is None else len(self.numbers)

    def place(self, i: int) -> int:
        """The number in its file of the i-th record that is taken."""
        return i if self.numbers is None else int(self.numbers[i])

    def as_json(self) -> dict[str, Any]:
        """What it is, as plain JSON values."""
        return {
            "path": self.records.path,
            "form": self.records.form,
            "records": len(self.records),
            "sampling_strategy": self.strategy,
            "taken": self.__len__(),
        }


class Manifest:
    """Samples in order, by number. It may be pickled: a data loader sends it to its workers."""

    def __init__(self, path: str, sources: Sequence[Source], numbers: Numbers | None = None) -> None:
        self.path = path
        self.sources = tuple(sources)
        self._ends = np.cumsum([one.__len__() for one in sources], dtype=np.int64)
        self._numbers = numbers

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._numbers is None else len(self._numbers)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> "Manifest": ...
    def __getitem__(self, i: int | slice) -> "Sample | Manifest":
        """A sample, or a part of the manifest.

        Raises:
            DataError: the record is no sample; the error has its file and number.
            IndexError: there are not so many.
        """
        if isinstance(i, slice):
            return self.select(range(len(self))[i])
        source, number = self.place(i)
        return source.records.sample(number)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def place(self, i: int) -> tuple[Source, int]:
        """Where a sample stands: its source, and the number of its record there.

        Raises:
            IndexError: there are not so many.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        i = i % len(self)
        whole = i if self._numbers is None else int(self._numbers[i])
        which = int(np.searchsorted(self._ends, whole, side="right"))
        source = self.sources[which]
        before = int(self._ends[which]) - source.__len__()
        return source, source.place(whole - before)

    def select(self, numbers: Sequence[int]) -> "Manifest":
        """The samples of these numbers, in this order.

        Raises:
            IndexError: there are not so many.
        """
        wanted = np.asarray(numbers, np.int64).reshape(-1)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"samples {wanted.min()} to {wanted.max()} of {len(self)}")
        return Manifest(self.path, self.sources, wanted if self._numbers is None else self._numbers[wanted])

    @property
    def fingerprint(self) -> str:
        """The same for the same records in the same order, wherever they are. Reads all manifests, no images
        that are files of their own."""
        from blake3 import blake3

        hashed = blake3()
        for source in self.sources:
            hashed.update(source.records.content_hash().encode())
            hashed.update(b"all" if source.numbers is None else source.numbers.tobytes())
        hashed.update(b"all" if self._numbers is None else self._numbers.tobytes())
        return hashed.hexdigest()[:32]


def open_manifest(path: str | os.PathLike[str], *, image_root: str | None = None, seed: int = 0) -> Manifest:
    """Opens a manifest. Images are named relative to `image_root`, by default the folder of the file that
    names them.

    `seed` decides what `random:N` of a yaml list draws.

    Raises:
        UsageError: nothing is there.
        DataError: it is no manifest, or it has no samples.
    """
    text = os.fspath(path)
    if image_root is not None and not os.path.isdir(image_root):
        raise UsageError(
            f"the image root `{image_root}` is no folder", hint="give the folder that holds the images"
        )
    found = Manifest(text, _sources(text, image_root, seed))
    if not len(found):
        raise DataError(f"the manifest `{text}` has no samples")
    return found


def _sources(path: str, image_root: str | None, seed: int) -> list[Source]:
    """Where the records of a path are."""
    if path.lower().endswith((".yaml", ".yml")) and os.path.exists(path):
        from dovetail.data.yaml_list import entries

        sources = []
        for position, entry in enumerate(entries(path)):
            records = records_of(entry.path, image_root)
            try:
                numbers = chosen(entry.strategy, len(records), seed=seed, position=position)
            except DataError as error:
                details = {"list": path, "entry": position, "json_path": entry.path, **error.details}
                raise DataError(error.message, **details, hint=error.hint) from None
            sources.append(Source(records, entry.strategy, numbers))
        return sources
    paths = [path] if path.lower().endswith(".tar") else paths_of(path)
    return [Source(records_of(one, image_root)) for one in paths]


def paths_of(path: str) -> list[str]:
    """The paths that a brace list stands for: `{a,b}.json` is a.json and b.json."""
    found = None if os.path.exists(path) else _BRACES.search(path)
    if found is None:
        return [path]
    words = [word.strip() for word in found[1].split(",")]
    return [one for word in words for one in paths_of(path[: found.start()] + word + path[found.end() :])]


def records_of(path: str, image_root: str | None) -> Records:
    """The records of one file or folder. Images lie beside it, if nothing else is said.

    Raises:
        UsageError: nothing is there.
        DataError: it holds no records.
    """
    images = ImageRoot(os.path.dirname(path) if image_root is None else image_root)
    if path.lower().endswith(".tar"):
        from dovetail.data.tar_records import TarRecords, shards_of

        return TarRecords(path, shards_of(path))
    if os.path.isfile(path):
        return JsonRecords(path, images)
    if os.path.isdir(path) and is_saved_folder(path):
        return FolderRecords(path, ImageRoot(path if image_root is None else image_root))
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        if any(one == "config.json" or one.endswith((".safetensors", ".index.json")) for one in names):
            raise UsageError(
                f"`{path}` is a folder of weights, no manifest", hint="`dovetail inspect` says what it is"
            )
        names = [one for one in names if one.endswith((".json", ".jsonl", ".yaml"))]
        raise UsageError(
            f"`{path}` is a folder",
            hint=f"give one of its files: {listed(names, 5)}" if names else "give a .json or .jsonl file",
        )
    raise UsageError(
        f"there is no manifest `{path}`",
        hint="give a .json, .jsonl or .yaml file, a list such as {a,b}.json, .tar shards, or a folder that "
        "`datasets` saved",
    )
