"""The records of a JSON file, read one at a time from their places."""

import os
from typing import Any, NoReturn
from weakref import finalize

from dovetail.data.image_root import ImageRoot, Images
from dovetail.data.json_index import Index, index_of, line_of
from dovetail.data.record import in_record
from dovetail.data.records import Records
from dovetail.data.strict_json import parse
from dovetail.errors import DataError

_LFS = b"version https://git-lfs.github.com/spec/"
_NOT_JSON = {
    b"\x1f\x8b": ("it is compressed by gzip", "unpack it first (`gunzip`)"),
    b"\x28\xb5\x2f\xfd": ("it is compressed by zstd", "unpack it first (`unzstd`)"),
    b"\xff\xfe": ("it is UTF-16", "write it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"),
    b"\xfe\xff": ("it is UTF-16", "write it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"),
    b"PAR1": ("it is a parquet file", "load it with `datasets` and save the data set to a folder"),
}


class JsonRecords(Records):
    """The records of a .json or .jsonl file. A copy in another process opens the file anew."""

    def __init__(self, path: str, images: ImageRoot) -> None:
        """Finds the places of the records.

        Raises:
            DataError: the file cannot be read or holds no records.
        """
        self.path, self._images = path, images
        self._fd: int | None = None
        self._index, self._size = _indexed(path)
        self.form = {"lines": "jsonl", "list": "json", "mapping": "json mapping"}[self._index.form]

    def __len__(self) -> int:
        return len(self._index.begins)

    def fields(self, number: int) -> dict[str, Any]:
        """A record as it is written; the key of a mapping is its `id`, if it has no other.

        Raises:
            DataError: it is no JSON, or no mapping.
        """
        raw = self._raw(number)
        is_mapped = self._index.form == "mapping"
        try:
            value = parse(b"{%b}" % raw if is_mapped else raw)
        except DataError as error:
            self._refuse(number, error.message, **error.details)
        if not isinstance(value, dict):
            self._refuse(number, "a record is no mapping", found=type(value).__name__)
        if is_mapped:
            ((id, value),) = value.items()
            return {"id": id, **value}
        return value

    def images(self, number: int) -> Images:
        """The folder that the names of all records are relative to."""
        return self._images

    def content_hash(self) -> str:
        """The BLAKE3 of the file. Reads all of it; images are not read."""
        from blake3 import blake3

        return blake3(max_threads=blake3.AUTO).update_mmap(self.path).hexdigest()

    def _raw(self, number: int) -> bytes:
        """The bytes of a record.

        Raises:
            DataError: the file is not what it was.
        """
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY)
            finalize(self, os.close, self._fd)
        begin, end = int(self._index.begins[number]), int(self._index.ends[number])
        raw = os.pread(self._fd, end - begin, begin)
        if len(raw) != end - begin or os.fstat(self._fd).st_size != self._size:
            raise DataError("the file has changed since it was opened", file=self.path, hint="open it again")
        return raw

    def _refuse(self, number: int, what: str, **details: object) -> NoReturn:
        with open(self.path, "rb") as file:
            line = line_of(file, int(self._index.begins[number]))
        error = DataError(what, hint=None, line=line, **details)
        raise in_record(error, self.path, number)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fd": None}


def _indexed(path: str) -> tuple[Index, int]:
    """The places of the records of a file, and its size.

    Raises:
        DataError: it cannot be read, is no JSON, or holds no records.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            _check_head(head, path)
            file.seek(0)
            index = index_of(file, path)
            return index, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"the manifest `{path}` cannot be read: {error.strerror}") from None


def _check_head(head: bytes, path: str) -> None:
    """Refuses what is no JSON by its first bytes.

    Raises:
        DataError: it is empty, or something else.
    """
    if not head.strip():
        raise DataError("the manifest is empty", file=path, hint="the download failed; fetch it again")
    if head.startswith(_LFS):
        raise DataError(
            "this is a Git LFS pointer, not the manifest it stands for",
            file=path,
            hint="run `git lfs pull` in the repository, or download the file from its web page",
        )
    for begin, (why, hint) in _NOT_JSON.items():
        if head.startswith(begin):
            raise DataError(f"the manifest is no JSON: {why}", file=path, hint=hint)
