"""Pixels of one image as a vision tower wants them, with Pillow and numpy only.

An image is decoded: uint8, height x width x 3. Pixels come out as float32, channels first. Resizing is
Pillow's, on bytes, as in the Pillow backend of transformers' image processors. Their torchvision backend
differs by a level where it shrinks an image of noise, by tens of levels where it enlarges one.

Sources: transformers@5.23.0 `image_transforms.py`, `image_processing_backends.py:PilBackend`,
`models/{siglip,clip}/image_processing_pil_*.py`; TRI-ML/prismatic-vlms@4fcd061
`models/backbones/vision/base_vision.py` (its torchvision transforms on PIL images); openpi@15a9616
`shared/image_tools.py:resize_with_pad_torch`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image as Pillow

from dovetail.errors import UsageError

Image = UInt8[np.ndarray, "_ _ 3"]
Pixels = Float32[np.ndarray, "3 _ _"]
Color = tuple[int, int, int]

BLACK: Color = (0, 0, 0)
MAX_PIXELS = 1 << 26  # of one image, read or made: 8,192 x 8,192, about half a gigabyte while it is read
BILINEAR = Pillow.Resampling.BILINEAR
BICUBIC = Pillow.Resampling.BICUBIC
LANCZOS = Pillow.Resampling.LANCZOS


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, of bytes times `scale`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1 / 255

    @property
    def color(self) -> Color:
        """The mean as a colour of bytes, rounded down; what gaps are filled with."""
        red, green, blue = (int(255 * value) for value in self.mean)
        return red, green, blue


HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # SigLIP, PaliGemma, pi0: [0, 1] becomes [-1, 1]
CLIP = Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # DINOv2


def decoded(image: object, where: str | None = None) -> Image:
    """The image itself, if it is decoded; `where` names it in an error.

    Raises:
        UsageError: it is not an array of bytes, height x width x 3, or it is empty.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(
            "not a decoded image",
            expected="uint8 (height, width, 3)",
            found=found,
            source=where,
            hint="give the bytes of an RGB image: np.asarray(Image.open(FILE).convert('RGB'))",
        )
    if image.size == 0:
        raise UsageError(
            "the image is empty", found=str(image.shape), source=where, hint="give an image with pixels"
        )
    return image


def decoded_video(video: np.ndarray, where: str | None = None) -> np.ndarray:
    """The video itself, if its frames are decoded images of one size; `where` names it in an error.

    Raises:
        UsageError: its frames are not decoded, or it has none.
    """
    if not len(video):
        raise UsageError("the video has no frames", source=where, hint="give at least one frame")
    decoded(video[0], where)
    return video


def _check_area(image: Image, size: tuple[int, int]) -> None:
    """Refuses to make an image that is too large, such as of one that is a line."""
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise UsageError(
            f"an image of {image.shape[0]} x {image.shape[1]} would become one of {size[0]} x {size[1]}",
            expected=f"1 to {MAX_PIXELS:,} pixels",
            hint="cut the image to a usual shape first",
        )


def resize(image: Image, size: tuple[int, int], *, filter: Pillow.Resampling = BICUBIC) -> Image:
    """The image at (height, width), its aspect ratio ignored. Antialiased where it shrinks.

    Raises:
        UsageError: that is too large for an image.
    """
    height, width = size
    _check_area(image, size)
    return np.asarray(Pillow.fromarray(image).resize((width, height), filter))


def resize_shorter_edge(image: Image, size: int, *, filter: Pillow.Resampling = BICUBIC) -> Image:
    """The image with its shorter edge at `size`; the longer one is rounded down.

    Raises:
        UsageError: the image is so long that it would be too large.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    return resize(image, (int(size * height / short), int(size * width / short)), filter=filter)


def crop(image: Image, size: tuple[int, int], *, top: int, left: int) -> Image:
    """A window of (height, width) from `top`, `left` on."""
    return image[top : top + size[0], left : left + size[1]]


def centre(image: Image, size: tuple[int, int]) -> Image:
    """The window of (height, width) in the middle, rounded as CLIP's processor does."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return crop(image, size, top=max(0, top), left=max(0, left))


def pad(image: Image, *, vertical: tuple[int, int], horizontal: tuple[int, int], color: Color) -> Image:
    """The image with (before, after) rows and columns of one colour around it.

    Raises:
        UsageError: that is too large for an image.
    """
    height, width = image.shape[:2]
    size = sum(vertical) + height, sum(horizontal) + width
    _check_area(image, size)
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:] = color
    canvas[vertical[0] : vertical[0] + height, horizontal[0] : horizontal[0] + width] = image
    return canvas


def normalize(image: Image, statistics: Normalization) -> Pixels:
    """(value scale - mean) / std, each step rounded to float32 as the image processors do.

    A byte has 256 values, so this is a table look-up.

    Raises:
        UsageError: mean and deviation make no numbers of bytes.
    """
    with np.errstate(all="ignore"):
        scaled = (np.arange(256) * statistics.scale).astype(np.float32)
        mean, std = np.array(statistics.mean, np.float32), np.array(statistics.std, np.float32)
        table = (scaled[:, None] - mean) / std
    if not np.isfinite(table).all():
        raise UsageError(
            "image_mean, image_std and rescale_factor make NaN or infinity of bytes",
            found=f"{list(statistics.mean)}, {list(statistics.std)}, {statistics.scale}",
            hint="--set 'image_std=[0.5, 0.5, 0.5]' says another deviation",
        )
    return np.stack([table[:, channel][image[:, :, channel]] for channel in range(3)])


def siglip_pixels(image: np.ndarray, size: tuple[int, int]) -> Pixels:
    """SigLIP and PaliGemma: resized to the tower's (height, width), aspect ratio ignored, in [-1, 1].

    Raises:
        UsageError: the image is not decoded.
    """
    return normalize(resize(decoded(image), size), HALF)


def clip_pixels(image: np.ndarray, size: int, *, statistics: Normalization = CLIP) -> Pixels:
    """CLIP and LLaVA: the shorter edge at `size`, then the square in the middle.

    Raises:
        UsageError: the image is not decoded.
    """
    resized = resize_shorter_edge(decoded(image), size)
    return normalize(centre(resized, (size, size)), statistics)


def prismatic_pixels(
    image: np.ndarray, size: int, *, strategy: str, statistics: Normalization = HALF
) -> Pixels:
    """Prismatic's three ways to a square: squeeze it, cut the middle out, or pad it with the mean colour.

    Letterbox pads both sides alike, so an odd gap leaves the image one pixel short of square; the crop
    that follows takes care of it.

    Raises:
        UsageError: the image is not decoded, or there is no such strategy.
    """
    whole = decoded(image)
    match strategy:
        case "resize-naive":
            return normalize(resize(whole, (size, size)), statistics)
        case "resize-crop":
            pass
        case "letterbox":
            height, width = whole.shape[:2]
            rows, columns = max(0, width - height) // 2, max(0, height - width) // 2
            whole = pad(whole, vertical=(rows, rows), horizontal=(columns, columns), color=statistics.color)
        case _:
            known = "resize-naive, resize-crop, letterbox"
            raise UsageError(f"no image resize strategy is called `{strategy}`", hint=f"one of: {known}")
    resized = resize_shorter_edge(whole, size)
    # torchvision's CenterCrop rounds half to even, where CLIP's processor rounds down.
    top, left = (round((edge - size) / 2) for edge in resized.shape[:2])
    return normalize(crop(resized, (size, size), top=top, left=left), statistics)


def pi0_pixels(image: np.ndarray, size: tuple[int, int]) -> Pixels:
    """pi0: in [-1, 1], shrunk or grown bilinearly to fit (height, width), centred on a ground of -1.

    Bilinear between the nearest four values even when shrinking (no antialias), as in openpi and lerobot.

    Raises:
        UsageError: the image is not decoded.
    """
    pixels = normalize(decoded(image), HALF)
    height, width = pixels.shape[1:]
    ratio = max(height / size[0], width / size[1])
    if ratio != 1:
        pixels = interpolate(pixels, (int(height / ratio), int(width / ratio))).clip(-1, 1)
    ground = np.full((3, *size), -1, np.float32)
    top, left = ((edge - inner) // 2 for edge, inner in zip(size, pixels.shape[1:], strict=True))
    ground[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    return ground


def interpolate(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Bilinear, pixel centres at half integers (torch's `align_corners=False`), edges repeated."""
    for axis, target in enumerate(size, start=1):
        source = pixels.shape[axis]
        scale = np.float32(source / target)  # places in float32, as torch has them
        place = np.maximum(
            (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0
        )
        before = place.astype(np.int64)
        after = np.minimum(before + 1, source - 1)
        share = place - before.astype(np.float32)
        share = share[:, None] if axis == 1 else share
        pixels = pixels.take(before, axis) * (1 - share) + pixels.take(after, axis) * share
    return pixels
