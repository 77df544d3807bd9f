"""The folder that the names of images in a manifest are relative to, and that none may lead out of.

A manifest is written by others, and what it names is read by whoever trains on it: an absolute path or `..`
that leaves the folder is refused. Links inside the folder are the reader's own and are followed.
"""

import os
import re
from abc import ABC, abstractmethod

from dovetail.data.sample import Picture
from dovetail.errors import DataError

_VIDEO_FILES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")
_DIGITS = re.compile(r"([0-9]+)")


class Images(ABC):
    """Where the images that a record names are."""

    @abstractmethod
    def picture(self, name: str) -> Picture:
        """The image of this name; it is not opened.

        Raises:
            DataError: it may not be read.
        """

    @abstractmethod
    def frames(self, name: str) -> tuple[Picture, ...]:
        """The frames of the video of this name, in order.

        Raises:
            DataError: there are none.
        """


class ImageRoot(Images):
    """A folder of images; "" is the current one."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._whole = os.path.normpath(os.path.abspath(folder or "."))

    def path(self, name: str) -> str:
        """The path of a file that a record names.

        Raises:
            DataError: it lies outside the folder, or is an address.
        """
        if "://" in name:
            raise DataError(
                f"an image is an address: `{name[:120]}`", hint="fetch the images first and name the files"
            )
        if "\0" in name:
            raise DataError("the path of an image has a zero byte", found=repr(name[:80]))
        path = os.path.normpath(os.path.join(self._whole, name))
        if path != self._whole and not path.startswith(self._whole.rstrip(os.sep) + os.sep):
            raise DataError(
                f"the image `{name}` lies outside the image root",
                root=self.folder or ".",
                hint="give the folder that holds all images as --image-root (`/` allows every absolute path)",
            )
        return os.path.join(self.folder, name)

    def picture(self, name: str) -> Picture:
        """The image of this name; it is not opened.

        Raises:
            DataError: it lies outside the folder.
        """
        return Picture(self.path(name))

    def frames(self, name: str) -> tuple[Picture, ...]:
        """The files of a folder, in the order of the numbers in their names.

        Raises:
            DataError: it is no folder inside the root, or an empty one.
        """
        folder = self.path(name)
        if folder.lower().endswith(_VIDEO_FILES) and not os.path.isdir(folder):
            raise DataError(
                f"`{name}` is a video file, and videos are read as frames",
                hint="write its frames (`ffmpeg -i IN DIR/%05d.jpg`) and name the folder, or the files",
            )
        try:
            files = [one for one in os.listdir(folder) if not one.startswith(".")]
        except OSError as error:
            raise DataError(f"the folder of frames `{folder}` cannot be read: {error.strerror}") from None
        if not files:
            raise DataError(f"the folder of frames `{folder}` is empty")
        return tuple(Picture(os.path.join(folder, one)) for one in sorted(files, key=in_order))


def in_order(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts names by the numbers in them.

    >>> sorted(["f10.png", "f9.png"], key=in_order)
    ['f9.png', 'f10.png']
    """
    pieces = _DIGITS.split(name)
    return [(0, int(one)) if i % 2 else (1, one) for i, one in enumerate(pieces)]
