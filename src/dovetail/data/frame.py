"""One camera's image at one moment, not decoded yet: an image file, a moment of a video, or an array.

Each has `pixels()`, uint8, height x width x 3, and may be pickled.

Source: lerobot@v0.4.4 `datasets/video_utils.py:decode_video_frames_torchvision`, whose tolerance is 1e-4 s.
"""

import os
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from jaxtyping import UInt8

from dovetail.data.sample import Picture
from dovetail.errors import FormatError, MissingError, UsageError

# How far the time of a frame may lie from the one that is asked for.
_TOLERANCE = 1e-4


class VideoFrame(NamedTuple):
    """The frame of a video file at a time in seconds."""

    path: str
    seconds: float

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded frame.

        Raises:
            UsageError: nothing that decodes videos is installed.
            FormatError: the file is no video, or has no frame at this time.
        """
        check_decoder(self.path)
        import av

        try:
            with av.open(self.path) as video:
                found = _nearest(video, self.seconds)
        except (OSError, ValueError, IndexError, av.FFmpegError) as error:
            raise FormatError(f"the video cannot be read: {error}", file=self.path) from None
        if found is None or abs(found[0] - self.seconds) > _TOLERANCE:
            raise FormatError(
                "the video has no frame at this time",
                file=self.path,
                expected=f"{self.seconds:.4f} s, give or take {_TOLERANCE} s",
                found="no frame" if found is None else f"{found[0]:.4f} s",
                hint="the video is cut short, or another one than its timestamps are of; convert it again",
            )
        return np.asarray(found[1], np.uint8)


def check_decoder(path: str) -> None:
    """Refuses a video where nothing can decode it.

    Raises:
        UsageError: PyAV is not installed.
    """
    from importlib.util import find_spec

    if find_spec("av") is None:
        raise UsageError(
            "frames of a video need PyAV, which is not installed",
            file=path,
            hint="pip install av; or convert the data set so that its frames are images",
        )


def _nearest(video: Any, seconds: float) -> tuple[float, Any] | None:
    """The time and the pixels of the frame that lies nearest, decoded from the key frame before it."""
    stream = video.streams.video[0]
    video.seek(int(seconds / stream.time_base), stream=stream, backward=True)
    best: Any = None
    for frame in video.decode(stream):
        if best is None or abs(frame.time - seconds) < abs(best.time - seconds):
            best = frame
        if frame.time >= seconds:
            break
    return None if best is None else (float(best.time), best.to_ndarray(format="rgb24"))


class ArrayFrame(NamedTuple):
    """One frame of an array [frames, height, width, 3] in a .npz file, which is read no further than it."""

    path: str
    key: str
    number: int

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The frame.

        Raises:
            FormatError: the file is damaged, or the array is no uint8 of that shape.
            MissingError: the file is gone.
        """
        try:
            with ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as member:
                shape, dtype = npy_header(member)
                if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or self.number >= shape[0]:
                    raise ValueError(f"{dtype} {shape}")
                size = int(np.prod(shape[1:]))
                member.seek(self.number * size, os.SEEK_CUR)
                read = member.read(size)
                return np.frombuffer(read, np.uint8).reshape(shape[1:])
        except FileNotFoundError:
            raise MissingError("there is no such file", file=self.path) from None
        except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
            raise FormatError(
                f"frame {self.number} of camera `{self.key}` cannot be read: {error}",
                file=self.path,
                expected="uint8, frames x height x width x 3",
                hint="write the episode again with numpy.savez",
            ) from None


def npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in the .npy form, from its header.

    Raises:
        ValueError: it is none, in the order of Fortran, or of Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if is_fortran or dtype.hasobject:
        raise ValueError("columns first, or objects of Python")
    return shape, dtype


Frame = Picture | VideoFrame | ArrayFrame
