"""Image files, decoded: turned as the camera was held, without transparency.

Formats are those that Pillow decodes by itself; others would be given to programs that this machine may have.
"""

import os
import stat
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import IO, TypeVar

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from dovetail.errors import UsageError
from dovetail.inputs.images import MAX_PIXELS, Image

Found = TypeVar("Found")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")  # modes of 16 bits of grey
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # Exif 2.32: rows are columns
_WIDE = ("I", "F")  # 32 bits, whose black and white nobody knows


def read_image(path: str) -> Image:
    """The pixels of an image file, uint8, height x width x 3. Of 16 bits of grey the upper 8.

    Raises:
        UsageError: there is no such file, it holds no image that is read here, or too many pixels.
    """
    return _read(lambda: _opened(path), path, _decoded)


def read_image_bytes(content: bytes, name: str) -> Image:
    """The same of the bytes of an image file, which errors call `name`.

    Raises:
        UsageError: they hold no image that is read here, or too many pixels.
    """
    return _read(lambda: BytesIO(content), name, _decoded)


def image_size(path: str) -> tuple[int, int]:
    """Height and width of an image file, by its header.

    Raises:
        UsageError: there is no such file, it holds no image that is read here, or too many pixels.
    """
    return _read(lambda: _opened(path), path, _size)


def image_size_of_bytes(content: bytes, name: str) -> tuple[int, int]:
    """The same of the bytes of an image file, which errors call `name`.

    Raises:
        UsageError: they hold no image that is read here, or too many pixels.
    """
    return _read(lambda: BytesIO(content), name, _size)


def _read(opened: Callable[[], IO[bytes]], path: str, read: Callable[[Pillow.Image, str], Found]) -> Found:
    try:
        with opened() as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            with Pillow.open(file, formats=FORMATS) as image:
                return read(image, path)
    except FileNotFoundError:
        raise UsageError(
            f"there is no image `{path}`", hint="give the path of a JPEG, PNG or WebP file"
        ) from None
    except UnidentifiedImageError:
        raise UsageError(f"`{path}` is no image that can be read", hint="JPEG, PNG and WebP can") from None
    except Pillow.DecompressionBombError:
        raise _too_many(path, "more than twice that") from None
    except (OSError, SyntaxError, ValueError, MemoryError, OverflowError) as error:
        raise UsageError(
            f"the image `{path}` cannot be read: {str(error) or type(error).__name__}",
            hint="open it elsewhere and save it again",
        ) from None


def _opened(path: str) -> IO[bytes]:
    """The file, if it is one: a pipe would be waited for, a device never ends.

    Raises:
        UsageError: it is something else.
        OSError: it cannot be opened.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise UsageError(f"`{path}` is {kind}, not an image file", hint="save the image in a file first")
    return os.fdopen(number, "rb")


def _size(image: Pillow.Image, path: str) -> tuple[int, int]:
    """Height and width as the camera was held, of an image whose header alone has been read."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many(path, f"{height} x {width}")
    return (width, height) if image.getexif().get(_ORIENTATION, 1) in _TURNED else (height, width)


def _decoded(image: Pillow.Image, path: str) -> Image:
    """The pixels of an image whose header alone has been read."""
    _size(image, path)
    if image.mode in _WIDE:
        raise UsageError(
            f"the image `{path}` has numbers of 32 bits, and nothing says which of them is white",
            hint="save it with 8 or 16 bits",
        )
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _SIXTEEN:
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _too_many(path: str, found: str) -> UsageError:
    return UsageError(
        f"the image `{path}` has too many pixels",
        expected=f"at most {MAX_PIXELS:,}",
        found=found,
        hint="make it smaller first: no model looks at so many",
    )
