"""The folder that a checkpoint lives in: local here, a hub repository in `hub.py`.

Names come from files that anyone may have written (an index, a zip), so a name is only followed when
it stays inside the folder.
"""

import os
from abc import ABC, abstractmethod
from contextlib import suppress

from dovetail.errors import FormatError, MissingError, UnsafeError
from dovetail.store.source import ByteSource, LocalSource, access_hint


class Folder(ABC):
    """Files by relative name, with `/` between levels."""

    name: str

    @abstractmethod
    def files(self) -> dict[str, int]:
        """The files directly in the folder and one level below, with their sizes in bytes.

        Raises:
            MissingError: the folder cannot be opened.
        """

    @abstractmethod
    def open(self, name: str) -> ByteSource:
        """One file, opened.

        Raises:
            MissingError: it does not exist.
            UnsafeError: the name leaves the folder.
        """

    def read(self, name: str, limit: int = 64 << 20) -> bytes:
        """The whole of a small file.

        Raises:
            MissingError: it does not exist.
            FormatError: it is longer than `limit` bytes.
        """
        source = self.open(name)
        try:
            return whole(source, limit)
        finally:
            source.close()


def whole(source: ByteSource, limit: int) -> bytes:
    """All bytes of a file that is to be small.

    Raises:
        FormatError: it is longer than `limit` bytes.
    """
    if source.size > limit:
        raise FormatError(
            "the file is too long for what it should be",
            file=source.name,
            expected=f"at most {limit:,} bytes",
            found=f"{source.size:,}",
        )
    return source.read_at(0, source.size)


def check_name(name: str, folder: str, named_by: str | None = None) -> None:
    """Refuses a name that is absolute or climbs out of the folder.

    Raises:
        UnsafeError: it does one of the two.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip("./") or parts[0] == "" or ".." in parts or "\0" in name or name[1:2] == ":":
        raise UnsafeError(
            f"`{name}` points outside the checkpoint's folder",
            file=named_by,
            folder=folder,
            hint="a checkpoint may only name files beside itself; do not trust this one",
        )


class Within(Folder):
    """A folder in another one."""

    def __init__(self, outer: Folder, name: str) -> None:
        self._outer = outer
        self._inner = name
        self.name = f"{outer.name}/{name}"

    def files(self) -> dict[str, int]:
        start = f"{self._inner}/"
        return {n.removeprefix(start): size for n, size in self._outer.files().items() if n.startswith(start)}

    def open(self, name: str) -> ByteSource:
        return self._outer.open(f"{self._inner}/{name}")


class LocalFolder(Folder):
    """A folder on this machine."""

    def __init__(self, path: str) -> None:
        self.name = path

    def files(self) -> dict[str, int]:
        try:
            found, folders = _scan(self.name)
        except OSError as error:
            raise MissingError(
                f"cannot open the folder: {error.strerror}", folder=self.name, hint=access_hint(error)
            ) from error
        for folder in folders:
            with suppress(PermissionError):  # somebody else's, such as `lost+found`
                below, _ = _scan(os.path.join(self.name, folder))
                found |= {f"{folder}/{name}": size for name, size in below.items()}
        return dict(sorted(found.items()))

    def open(self, name: str) -> LocalSource:
        check_name(name, self.name)
        path = os.path.join(self.name, name)
        if not os.path.exists(path):
            raise MissingError("there is no such file", file=path)
        self._check_target(path, name)
        return LocalSource(path)

    def _check_target(self, path: str, name: str) -> None:
        """A symbolic link may point inside the folder, or from a hub cache's snapshot to its blobs."""
        root = os.path.realpath(self.name)
        homes = [root]
        if os.path.basename(os.path.dirname(root)) == "snapshots":
            homes.append(os.path.join(os.path.dirname(os.path.dirname(root)), "blobs"))
        check_target(path, name, self.name, homes)


def check_target(path: str, name: str, folder: str, homes: list[str]) -> None:
    """Refuses a path that links lead anywhere else than below one of these folders.

    Raises:
        UnsafeError: they do.
    """
    target = os.path.realpath(path)
    if not any(target.startswith(home + os.sep) for home in homes):
        raise UnsafeError(
            f"`{name}` is a symbolic link that leaves the checkpoint's folder",
            folder=folder,
            target=target,
            hint="give dovetail the target itself if you trust it",
        )


def _scan(path: str) -> tuple[dict[str, int], list[str]]:
    """The files in a folder with their sizes, and its folders. A link that leads nowhere is neither."""
    files: dict[str, int] = {}
    folders: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            with suppress(OSError):  # a link to itself
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files[entry.name] = entry.stat().st_size
    return files, folders
