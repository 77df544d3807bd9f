"""Episodes of a plain folder: one .npz file each, in the order of their names.

    array           shape           what
    state           [n, w]          numbers
    actions         [n, a]          numbers
    instruction     [] or [n]       text
    any other       [n, h, w, 3]    uint8: a camera of that name
                    [n]             text: files of a camera's images, relative to the folder

Objects of Python are refused; a camera's array is read frame by frame.
"""

import os
from functools import lru_cache
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from dovetail.data.episodes import Episodes, Recorded
from dovetail.data.frame import ArrayFrame, Frame, npy_header
from dovetail.data.sample import Picture
from dovetail.errors import FormatError, listed
from dovetail.store.folder import check_name

_OWN = ("state", "actions", "instruction")
# The longest list of file names or of numbers of one episode.
_MAX_BYTES = 1 << 30


def episode_files(folder: str) -> list[str]:
    """The names of the .npz files in a folder, sorted."""
    return sorted(name for name in os.listdir(folder) if name.endswith(".npz"))


class NpzEpisodes(Episodes):
    """A folder of .npz files."""

    def __init__(self, path: str) -> None:
        self.source = path
        self.form = "one .npz file for each episode"
        self.fps = None
        self.state_names = self.action_names = ()
        self.files = tuple(os.path.join(path, name) for name in episode_files(path))
        headers = [_headers(file) for file in self.files]
        self.lengths = tuple(_length(file, one) for file, one in zip(self.files, headers, strict=True))
        self.cameras = tuple(name for name in headers[0] if name not in _OWN)
        self._is_array = {name: len(headers[0][name][0]) == 4 for name in self.cameras}
        for file, one in zip(self.files, headers, strict=True):
            found = {
                name: (shape[1:], dtype.kind) for name, (shape, dtype) in one.items() if name in _OWN[:2]
            }
            first = {
                name: (shape[1:], dtype.kind) for name, (shape, dtype) in headers[0].items() if name in found
            }
            if found != first or set(one) - set(_OWN) != set(self.cameras):
                raise FormatError(
                    "the episode has other arrays than the first one",
                    file=file,
                    expected=_shown(headers[0]),
                    found=_shown(one),
                    hint="keep episodes of one robot in one folder",
                )

    def numbers(self, episode: int) -> Recorded:
        return _recorded(self.files[episode], self.lengths[episode])

    def seen(self, episode: int, frame: int) -> dict[str, Frame]:
        file = self.files[episode]
        return {
            name: ArrayFrame(file, name, frame) if self._is_array[name] else self._picture(file, name, frame)
            for name in self.cameras
        }

    def _picture(self, file: str, camera: str, frame: int) -> Picture:
        name = str(_array(file, camera)[frame])
        check_name(name, self.source, file)
        return Picture(os.path.join(self.source, name))


Headers = dict[str, tuple[tuple[int, ...], Any]]


def _headers(file: str) -> Headers:
    """Shape and dtype of each array.

    Raises:
        FormatError: the file is damaged, or lacks what an episode has.
    """
    try:
        found: Headers = {}
        with ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    found[name.removesuffix(".npy")] = npy_header(member)
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise FormatError(f"the episode cannot be read: {error}", file=file) from None
    lost = [name for name in _OWN if name not in found]
    if lost:
        raise FormatError(
            f"the episode has no {listed(lost)}",
            file=file,
            expected="state [frames, width], actions [frames, width], instruction",
            found=_shown(found),
            hint="write it with numpy.savez(FILE, state=…, actions=…, instruction=…, CAMERA=…)",
        )
    return found


def _length(file: str, headers: Headers) -> int:
    """How many frames all arrays have.

    Raises:
        FormatError: they do not agree, or one is none of an episode's.
    """
    frames = headers["actions"][0][0] if headers["actions"][0] else 0
    for name, (shape, dtype) in headers.items():
        is_text = dtype.kind == "U"
        if name in ("state", "actions"):
            is_good = len(shape) == 2 and dtype.kind in "fiu"
        elif name == "instruction":
            is_good = is_text and len(shape) <= 1
        else:
            is_good = (dtype == np.uint8 and len(shape) == 4 and shape[3] == 3) or (
                is_text and len(shape) == 1
            )
        if not is_good or frames < 1 or (shape and shape[0] != frames):
            raise FormatError(
                f"`{name}` is no array of an episode of {frames} frames",
                file=file,
                found=f"{dtype} {shape}",
                expected="numbers [frames, width], uint8 [frames, height, width, 3], or text",
                hint="docs/guides/data.md shows the form",
            )
    return frames


def _shown(headers: Headers) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in sorted(headers.items()))


@lru_cache(maxsize=256)
def _recorded(file: str, length: int) -> Recorded:
    state, actions, told = (_array(file, name) for name in _OWN)
    instructions = tuple(map(str, told)) if told.ndim else (str(told),) * length
    return Recorded(state.astype(np.float64), actions.astype(np.float64), instructions)


def _array(file: str, name: str) -> np.ndarray:
    """One array that is small.

    Raises:
        FormatError: it is not, or is damaged.
    """
    try:
        with ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
            shape, dtype = npy_header(member)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if size > _MAX_BYTES:
                raise ValueError(f"{size:,} bytes")
            read = member.read(size)
            return np.frombuffer(read, dtype).reshape(shape)
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise FormatError(f"`{name}` cannot be read: {error}", file=file) from None
