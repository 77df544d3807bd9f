"""One sample of a manifest: the turns of a conversation, with images and videos at their places.

Nothing is decoded: a picture is the path of a file or the bytes of one, and is read when `pixels` is asked
for. A sample may be pickled and sent to the workers of a data loader.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from dovetail.errors import DataError, UsageError
from dovetail.inputs.image_file import image_size, image_size_of_bytes, read_image, read_image_bytes

Role = Literal["system", "user", "assistant"]


class Span(NamedTuple):
    """A part of a file, in bytes."""

    path: str
    begin: int
    size: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: the file cannot be read, or is not what it was.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.begin)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"`{self.path}` cannot be read: {error.strerror}") from None
        if len(content) != self.size:
            raise DataError(
                "the file ends too early",
                file=self.path,
                expected=f"{self.size:,} bytes from byte {self.begin:,}",
                hint="it was cut off, or has changed since it was opened: fetch it again, or open it again",
            )
        return content


class Picture(NamedTuple):
    """An image file that is not read yet: its path, its bytes, or its place in an archive.

    `name` is the path, or what errors call it.
    """

    name: str
    content: bytes | None = None
    inside: Span | None = None

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded image.

        Raises:
            UsageError: there is no such file, or it is no image that can be read.
            DataError: the archive that it stands in cannot be read.
        """
        content = self._content()
        return read_image(self.name) if content is None else read_image_bytes(content, self.name)

    def size(self) -> tuple[int, int]:
        """Height and width, by the header of the file.

        Raises:
            UsageError: there is no such file, or it is no image that can be read.
            DataError: the archive that it stands in cannot be read.
        """
        content = self._content()
        return image_size(self.name) if content is None else image_size_of_bytes(content, self.name)

    def _content(self) -> bytes | None:
        """The bytes of the file, None if they are in a file of their own."""
        return self.content if self.inside is None else self.inside.read()


class Video(NamedTuple):
    """A video as its frames, in order."""

    frames: tuple[Picture, ...]

    def pixels(self) -> UInt8[np.ndarray, "frames h w 3"]:
        """The decoded frames.

        Raises:
            UsageError: there are none, one cannot be read, or they differ in size.
        """
        frames = [frame.pixels() for frame in self.frames]
        sizes = {frame.shape for frame in frames}
        if len(sizes) != 1:
            found = ", ".join(f"{height} x {width}" for height, width, _ in sorted(sizes))
            raise UsageError(
                "the frames of a video have one size",
                found=found or "no frames",
                hint="write the frames anew, all of them from one video",
            )
        return np.stack(frames)

    def size(self) -> tuple[int, int, int]:
        """Frames, height and width, by the header of the first frame.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        if not self.frames:
            raise UsageError("a video has no frames", hint="leave the video out, or name its frames")
        return (len(self.frames), *self.frames[0].size())


Seen = Picture | Video
Piece = str | Picture | Video


class Turn(NamedTuple):
    """What one side says: texts, images and videos in their order."""

    role: Role
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The texts alone, one after the other."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))


class Sample(NamedTuple):
    """A conversation. `source` and `number` say where it stands: the file, and the number of the record in it
    from 0. `kind` is the type of question, where the record names one."""

    source: str
    number: int
    turns: tuple[Turn, ...]
    id: str | None = None
    kind: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for people: `train.jsonl, record 17`."""
        return f"{self.source}, record {self.number}"

    def seen(self) -> Iterator[Seen]:
        """Its images and videos, in order."""
        for turn in self.turns:
            for piece in turn.pieces:
                if not isinstance(piece, str):
                    yield piece
