"""WebDataset shards: tar archives in which the files of a sample stand together under one name.

    000.json 000.jpg  001.json 001.jpg     the record, and the image that it names (by any name, if it is one)
    000.json 000.0.jpg 000.1.jpg           several images: those that the record names, or all in order
    000.txt 000.jpg                        a caption

Opening reads the heads of the archives, not what is in them; `webdataset` says which files are a sample.
Links and devices in an archive are refused.
"""

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from dovetail.data.image_root import Images
from dovetail.data.record import IMAGES, TURNS, VIDEOS, in_record
from dovetail.data.records import Records
from dovetail.data.sample import Picture, Span
from dovetail.data.strict_json import parse
from dovetail.errors import DataError, UsageError, listed

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_MAX_TEXT = 64 << 20
_MAX_IMAGE = 512 << 20
_MAX_SHARDS = 1 << 20
_BRACES = "`a-{000..009}.tar` are ten archives"
_META = re.compile(r"__[^/]*__($|/)")  # what webdataset does not take for a part of a sample


class _Member(NamedTuple):
    suffix: str
    begin: int
    size: int


class TarRecords(Records):
    """The samples of tar archives, one archive after the other."""

    form = "webdataset"

    def __init__(self, path: str, shards: Sequence[str]) -> None:
        """Reads where the files in the archives are. `path` is what they are called together.

        Raises:
            DataError: an archive cannot be read, or holds what no sample has.
            UsageError: `webdataset` is not installed.
        """
        self.path, self._shards = path, tuple(shards)
        suffixes: dict[str, int] = {}
        keys: list[str] = []
        ends, shard_of = array("q"), array("q")
        kinds, begins, sizes = array("q"), array("q"), array("q")
        for number, shard in enumerate(self._shards):
            for key, members in _samples(shard):
                keys.append(key)
                shard_of.append(number)
                for member in members:
                    kinds.append(suffixes.setdefault(member.suffix, len(suffixes)))
                    begins.append(member.begin)
                    sizes.append(member.size)
                ends.append(len(kinds))
        self._keys, self._suffixes = np.array(keys, np.bytes_ if _is_ascii(keys) else np.str_), [*suffixes]
        self._shard_of, self._ends = np.array(shard_of, np.int32), np.array(ends, np.int64)
        self._kinds = np.array(kinds, np.int32)
        self._begins, self._sizes = np.array(begins, np.int64), np.array(sizes, np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def fields(self, number: int) -> dict[str, Any]:
        """The record beside the images; one that names none has all of them, in their order.

        Raises:
            DataError: there is none, or it is no JSON.
        """
        members = {one.suffix: one for one in self._members(number)}
        try:
            fields: dict[str, Any] = {"id": self._key(number)}
            if (
                written := next((one for name, one in members.items() if _ending(name) == "json"), None)
            ) is not None:
                found = parse(self._text(number, written))
                if not isinstance(found, dict):
                    raise DataError("the .json of a sample is no mapping", found=type(found).__name__)
                fields |= found
            if "txt" in members and not any(fields.get(key) is not None for key in TURNS):
                try:
                    fields["text"] = self._text(number, members["txt"]).decode()
                except UnicodeDecodeError as error:
                    raise DataError(f"the .txt of a sample is not UTF-8: {error.reason}") from None
        except DataError as error:
            raise self._placed(error, number) from None
        if not any(fields.get(key) is not None for key in (*IMAGES, *VIDEOS)):
            pictures = [name for name in members if _ending(name) in PICTURES]
            if pictures:
                fields["images"] = pictures
        return fields

    def images(self, number: int) -> Images:
        """The images that stand beside the record."""
        pictures = [one for one in self._members(number) if _ending(one.suffix) in PICTURES]
        return _Beside(self._shards[self._shard_of[number]], self._key(number), pictures)

    def content_hash(self) -> str:
        """Of the records, and of the names and sizes of the images."""
        from blake3 import blake3

        hashed = blake3()
        for number in range(len(self)):
            for member in self._members(number):
                hashed.update(f"{self._key(number)}.{member.suffix} {member.size}\n".encode(errors="replace"))
                if _ending(member.suffix) in ("json", "txt"):
                    hashed.update(self._text(number, member))
        return hashed.hexdigest()

    def _members(self, number: int) -> list[_Member]:
        begin = int(self._ends[number - 1]) if number else 0
        return [
            _Member(self._suffixes[self._kinds[i]], int(self._begins[i]), int(self._sizes[i]))
            for i in range(begin, int(self._ends[number]))
        ]

    def _key(self, number: int) -> str:
        key = self._keys[number]
        return key.decode() if isinstance(key, bytes) else str(key)

    def _text(self, number: int, member: _Member) -> bytes:
        if member.size > _MAX_TEXT:
            raise DataError(f"the .{member.suffix} of a sample has {member.size:,} bytes")
        return Span(self._shards[self._shard_of[number]], member.begin, member.size).read()

    def _placed(self, error: DataError, number: int) -> DataError:
        shard = self._shards[self._shard_of[number]]
        named = DataError(error.message, key=self._key(number), **error.details, hint=error.hint)
        return in_record(named, shard, number)


class _Beside(Images):
    """The images of one sample in an archive."""

    def __init__(self, shard: str, key: str, members: Sequence[_Member]) -> None:
        self._shard, self._key, self._members = shard, key, members
        self._is_taken = False  # the only one, under another name

    def picture(self, name: str) -> Picture:
        """The image of this name: that of a file in the archive, what follows its key, or the only one there.

        Raises:
            DataError: there is none.
        """
        asked = name.lower()
        key = self._key.lower()
        found = [
            one
            for one in self._members
            if asked in (one.suffix, f"{key}.{one.suffix}", f"{os.path.basename(key)}.{one.suffix}")
        ]
        if not found and len(self._members) == 1 and not self._is_taken:
            found, self._is_taken = [*self._members], True
        if not found:
            raise DataError(
                f"the image `{name}` is not beside its record",
                shard=self._shard,
                found=listed([f"{self._key}.{one.suffix}" for one in self._members], 5) or "no image",
            )
        if found[0].size > _MAX_IMAGE:
            raise DataError(f"the image `{name}` has {found[0].size:,} bytes", shard=self._shard)
        called = f"{self._shard}/{self._key}.{found[0].suffix}"
        return Picture(called, None, Span(self._shard, found[0].begin, found[0].size))

    def frames(self, name: str) -> tuple[Picture, ...]:
        """A video is a list of frames here.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"the video `{name}` is one file, and videos are read as frames",
            shard=self._shard,
            hint="put its frames into the archive as images and name them in a list under `video`",
        )


def shards_of(path: str) -> list[str]:
    """The archives that a path stands for: `a-{000..009}.tar` are ten.

    Raises:
        UsageError: one is not there, or `webdataset` is not installed.
    """
    if os.path.exists(path):
        return [path]
    try:
        shards = [*islice(_webdataset("tariterators").braceexpand.braceexpand(path), _MAX_SHARDS)]
    except ValueError as error:
        raise UsageError(f"the braces of `{path}` are not understood: {error}", hint=_BRACES) from None
    for shard in shards:
        if not os.path.exists(shard):
            raise UsageError(f"there is no archive `{shard}`", hint=_BRACES)
    return shards


def _samples(shard: str) -> Iterator[tuple[str, list[_Member]]]:
    """The samples of an archive: what they are called, and their files.

    Raises:
        DataError: it cannot be read, or files of a sample have the same name.
    """
    grouped = _webdataset("tariterators").group_by_keys(_files(shard))
    try:
        for sample in grouped:
            yield (
                sample["__key__"],
                [_Member(name, *place) for name, place in sample.items() if not name.startswith("__")],
            )
    except ValueError as error:
        raise DataError(f"a file is twice in a sample: {error.args[0]}", file=shard) from None


def _files(shard: str) -> Iterator[dict[str, Any]]:
    """The files in an archive with their places, as `webdataset` takes them.

    Raises:
        DataError: it is no archive, is cut off, or holds something else than files.
    """
    import tarfile

    split = _webdataset("tariterators").base_plus_ext
    try:
        with tarfile.open(shard, "r:") as tar:
            size = os.path.getsize(shard)
            while (member := tar.next()) is not None:
                vars(tar)["members"] = []  # all would be kept
                if member.isdir() or _META.match(member.name):
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"`{member.name}` in an archive is no plain file",
                        file=shard,
                        hint="store what it stands for",
                    )
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                if split(member.name)[0] is None:
                    raise DataError(f"`{member.name}` in an archive has no name with an ending", file=shard)
                yield {"fname": member.name, "data": (member.offset_data, member.size), "__url__": shard}
            if Span(shard, tar.offset, 512).read() != bytes(512):  # where tarfile stops without a word
                raise tarfile.ReadError(f"there is no end mark at byte {tar.offset:,}")
    except OSError as error:
        raise DataError(f"the archive `{shard}` cannot be read: {error.strerror}") from None
    except tarfile.TarError as error:
        raise DataError(
            f"this is no whole tar archive: {error}",
            file=shard,
            hint="fetch it again; unpack a compressed one (`gunzip`)",
        ) from None


def _webdataset(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"webdataset.{name}")
    except ModuleNotFoundError:
        raise UsageError("tar shards need webdataset", hint="pip install 'dovetail-weights[data]'") from None


def _ending(suffix: str) -> str:
    return suffix.rpartition(".")[2].lower()


def _is_ascii(keys: Sequence[str]) -> bool:
    return all(map(str.isascii, keys))
