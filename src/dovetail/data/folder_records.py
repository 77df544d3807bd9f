"""A folder that `datasets` wrote (`Dataset.save_to_disk`): rows of an Arrow table, mapped into memory.

Images are the bytes that stand in the rows, or files; they are not decoded.
"""

import os
from typing import Any

from dovetail.data.image_root import ImageRoot, Images
from dovetail.data.records import Records
from dovetail.data.sample import Picture
from dovetail.errors import DataError, UsageError, listed

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_saved_folder(path: str) -> bool:
    """Whether `datasets` wrote the folder."""
    return any(os.path.exists(os.path.join(path, name)) for name in (_STATE, _SPLITS))


class FolderRecords(Records):
    """The rows of a saved data set. A copy in another process opens the folder anew."""

    form = "datasets"

    def __init__(self, path: str, images: ImageRoot) -> None:
        """Opens the folder.

        Raises:
            DataError: it cannot be read.
            UsageError: it holds several splits, or `datasets` is not installed.
        """
        self.path, self._images = path, images
        self._rows: Any = None
        self._length = len(self._opened())

    def __len__(self) -> int:
        return self._length

    def fields(self, number: int) -> dict[str, Any]:
        """A row; what Arrow adds where others have a field (`null`) is left out."""
        (row,) = self._opened()[number].to_pylist()
        fields: dict[str, Any] = _plain(row, f"{self.path}, row {number}")
        return fields

    def images(self, number: int) -> Images:
        """The folder that file names of all rows are relative to."""
        return self._images

    def content_hash(self) -> str:
        """Of the fingerprint that `datasets` keeps, and of the names and sizes of the files."""
        from blake3 import blake3

        hashed = blake3()
        for name in sorted(os.listdir(self.path)):
            if name.endswith(".arrow"):
                hashed.update(f"{name} {os.path.getsize(os.path.join(self.path, name))}\n".encode())
        with open(os.path.join(self.path, _STATE), "rb") as file:
            hashed.update(file.read())
        return hashed.hexdigest()

    def _opened(self) -> Any:
        if self._rows is None:
            self._rows = _open(self.path)
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}


def _open(path: str) -> Any:
    """The rows as Arrow.

    Raises:
        DataError: it cannot be read.
        UsageError: it holds several splits, or `datasets` is not installed.
    """
    if os.path.exists(os.path.join(path, _SPLITS)):
        splits = [one for one in sorted(os.listdir(path)) if os.path.exists(os.path.join(path, one, _STATE))]
        raise UsageError(
            f"the data set `{path}` has several splits", hint=f"give the folder of one: {listed(splits)}"
        )
    try:
        from datasets import load_from_disk
    except ModuleNotFoundError:
        raise UsageError(
            "a folder of `datasets` needs datasets", hint="pip install 'dovetail-weights[data]'"
        ) from None
    try:
        return load_from_disk(path).with_format("arrow")
    except Exception as error:  # noqa: BLE001 - whatever datasets and pyarrow raise of a broken folder
        raise DataError(
            f"the data set `{path}` cannot be read: {str(error)[:200] or type(error).__name__}",
            hint="save it again with `Dataset.save_to_disk`",
        ) from None


def _plain(value: Any, place: str) -> Any:
    """A value of a row: images as pictures, columns of a list of mappings as mappings, without nulls."""
    if isinstance(value, dict):
        if value.keys() == {"bytes", "path"}:
            if value["bytes"] is None:
                return value["path"]
            return Picture(f"{place}{': ' if value['path'] else ''}{value['path'] or ''}", value["bytes"])
        return {key: _plain(one, place) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_plain(one, place) for one in value]
    return value
