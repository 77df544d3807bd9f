"""One sample of a manifest: the turns of a conversation, with images and videos at their places.

Nothing is decoded: a picture is the path of a file or the bytes of one, and is read when `pixels` is asked
for. A sample may be pickled and sent to the workers of a data loader.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from dovetail.inputs.image_file import read_image, read_image_bytes

Role = Literal["system", "user", "assistant"]


class Picture(NamedTuple):
    """An image file that is not read yet: its path, or its bytes and the name they had in an archive."""

    name: str
    content: bytes | None = None

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded image.

        Raises:
            UsageError: there is no such file, or it is no image that can be read.
        """
        return read_image(self.name) if self.content is None else read_image_bytes(self.content, self.name)


class Video(NamedTuple):
    """A video as its frames, in order."""

    frames: tuple[Picture, ...]


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
