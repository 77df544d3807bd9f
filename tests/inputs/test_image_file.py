"""Image files: what becomes of depth, orientation and colour, and what is refused."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from dovetail.errors import UsageError
from dovetail.inputs.image_file import read_image
from dovetail.inputs.images import (
    MAX_PIXELS,
    clip_pixels,
    interpolate,
    pad,
    prismatic_pixels,
    resize,
)
from dovetail.inputs.tiles import square
from inputs.golden_images import noise


def png(path: Path, width: int, height: int, *, rows: int | None = None) -> Path:
    """A PNG of nothing but grey zeros, of which only the size is large; perhaps of a few rows only."""
    body = zlib.compress(bytes((1 + width) * (height if rows is None else rows)))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("name", ["grey.png", "grey.tiff"])
def test_sixteen_bits_of_grey_keep_their_shades(name: str, tmp_path: Path) -> None:
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Pillow.fromarray(levels).save(tmp_path / name)
    found = read_image(str(tmp_path / name))
    assert found.shape == (16, 16, 3)
    np.testing.assert_array_equal(found[:, :, 0], np.arange(256).reshape(16, 16))
    assert (found == found[:, :, :1]).all()


def test_eight_bits_of_anything_are_as_pillow_has_them(tmp_path: Path) -> None:
    image = Pillow.fromarray(noise(20, 30))
    for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA"):
        name = "a.tiff" if mode == "CMYK" else "a.png"
        image.convert(mode).save(tmp_path / name)
        with Pillow.open(tmp_path / name) as again:
            expected = np.asarray(again.convert("RGB"))
        np.testing.assert_array_equal(read_image(str(tmp_path / name)), expected)


def test_a_picture_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(noise(20, 30)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), np.rot90(noise(20, 30), 3))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_nobody_knows_the_white_of_32_bits(mode: str, tmp_path: Path) -> None:
    Pillow.new(mode, (4, 4)).save(tmp_path / "a.tiff")
    with pytest.raises(UsageError, match="32 bits, and nothing says which of them is white"):
        read_image(str(tmp_path / "a.tiff"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(UsageError, match=f"is a {kind}, not an image file"):
        read_image(str(path))


def test_what_another_program_would_draw_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(UsageError, match="is no image that can be read"):
        read_image(str(tmp_path / "a.png"))


# Reads an image and prints the most memory that this took, in MiB.
SCRIPT = """
import resource, sys
from dovetail.inputs.image_file import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_image(sys.argv[1])
except Exception as error:
    print(type(error).__name__, end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_the_memory_of_an_image_is_that_of_its_pixels(tmp_path: Path) -> None:
    """Four bytes each while Pillow has them, three in the array."""
    path = png(tmp_path / "a.png", 9_000, 1_000)
    words = [sys.executable, "-c", SCRIPT, str(path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert int(said) < 9 * 8


@pytest.mark.parametrize(
    ("width", "height", "found"),
    [
        (13_000, 13_000, "13000 x 13000"),
        (8_192, 8_193, "8193 x 8192"),
        (200_000, 1_000, "more than twice that"),
    ],
)
def test_an_image_of_too_many_pixels_is_not_decoded(
    width: int, height: int, found: str, tmp_path: Path
) -> None:
    assert width * height > MAX_PIXELS
    with pytest.raises(UsageError, match=rf"too many pixels(.|\n)*{found}"):
        read_image(str(png(tmp_path / "a.png", width, height, rows=1)))


LINE = np.zeros((1, 60_000, 3), np.uint8)


@pytest.mark.parametrize(
    "made",
    [
        lambda: clip_pixels(LINE, 336),
        lambda: prismatic_pixels(LINE, 224, strategy="resize-crop"),
        lambda: prismatic_pixels(LINE, 224, strategy="letterbox"),
        lambda: square(LINE, 384),
        lambda: resize(LINE, (1 << 40, 1 << 40)),
        lambda: resize(LINE, (0, 5)),
        lambda: pad(LINE, vertical=(0, 1 << 40), horizontal=(0, 0), color=(0, 0, 0)),
    ],
    ids=["clip", "crop", "letterbox", "square", "resize", "nothing", "pad"],
)
def test_a_line_does_not_become_a_plane(made: object) -> None:
    with pytest.raises(UsageError, match="an image of 1 x 60000 would become one of"):
        made()  # type: ignore[operator]


def test_what_policies_see_of_a_line_stays_small() -> None:
    assert interpolate(np.zeros((3, 1, 60_000), np.float32), (1, 224)).shape == (3, 1, 224)
