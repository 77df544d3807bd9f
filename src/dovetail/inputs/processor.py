"""An image processor of transformers as its file describes it, and the squares that it makes.

`preprocessor_config.json` has the settings, or `processor_config.json` under `image_processor`. What no file
says is what the family declares. Two ways lead to a square, and the file's `size` says which:

    {"height": 384, "width": 384}                        squeezed, the aspect ratio ignored
    {"shortest_edge": 336} and `do_center_crop`          the shorter edge resized, the middle cut out

The square is the tower's: a file that says another one is refused, unless positions are interpolated, which
transformers does for DINOv2 and the caller may ask for (`image_size`).

Sources: transformers@5.23.0 `image_processing_backends.py:PilBackend`, `image_processing_utils.py`,
`models/llava/image_processing_pil_llava.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from dovetail.errors import UsageError
from dovetail.inputs.images import (
    Color,
    Image,
    Normalization,
    Pixels,
    centre,
    decoded,
    normalize,
    pad,
    resize,
    resize_shorter_edge,
)
from dovetail.inputs.square import Square
from dovetail.inputs.values import Values, fill

_NO_SCALE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProcessor:
    """The settings by the names that configs have for them; `size` and `crop_size` are empty if unsaid."""

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    resample: int
    rescale_factor: float
    do_resize: bool
    do_rescale: bool
    do_normalize: bool
    do_center_crop: bool
    do_pad: bool
    size: Any
    crop_size: Any

    @property
    def normalization(self) -> Normalization:
        """What is done to the numbers of each channel."""
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else _NO_SCALE
        return Normalization(mean, std, self.rescale_factor if self.do_rescale else 1.0)

    @property
    def color(self) -> Color:
        """The mean as a colour of bytes, which gaps are filled with."""
        return Normalization(self.image_mean, self.image_std).color

    @property
    def filter(self) -> Pillow.Resampling:
        """How images are resized.

        Raises:
            UsageError: they are not, or Pillow knows no such filter.
        """
        if not self.do_resize:
            raise UsageError(
                "the image processor resizes no images (`do_resize`: false), and this model needs it",
                hint="--set do_resize=true",
            )
        try:
            return Pillow.Resampling(self.resample)
        except ValueError:
            known = ", ".join(f"{one.value} {one.name.lower()}" for one in Pillow.Resampling)
            raise UsageError(f"images cannot be resized by `resample` {self.resample}", hint=known) from None

    @property
    def is_fitted(self) -> bool:
        """Whether images are made as large as fits, as transformers' processor of pi0 does."""
        return isinstance(self.size, Mapping) and self.size.get("max_height") is not None

    def fitted(self, image: np.ndarray, edge: int) -> Pixels:
        """The image as large as fits, in the upper left corner of a square; the rest is zeros, a grey.

        Raises:
            UsageError: the image is not decoded, or the processor makes squares of another size.
        """
        whole = decoded(image)
        if {self.size.get("max_height"), self.size.get("max_width")} != {edge}:
            raise UsageError(
                f"the image processor's `size` is {dict(self.size)}, the tower was made for {edge} pixels",
                hint=f'--set \'size={{"max_height": {edge}, "max_width": {edge}}}\' makes the images fit',
            )
        scale = min(edge / whole.shape[0], edge / whole.shape[1])
        size = int(whole.shape[0] * scale), int(whole.shape[1] * scale)
        pixels = normalize(resize(whole, size, filter=self.filter), self.normalization)
        return np.pad(pixels, ((0, 0), (0, edge - size[0]), (0, edge - size[1])))

    def _unfit(self, image: Image, size: tuple[int, int]) -> UsageError:
        return UsageError(
            "the image processor gives an image of a size that the tower does not take",
            expected=f"{size[0]} x {size[1]}",
            found=f"{image.shape[0]} x {image.shape[1]}",
            hint="--set do_resize=true, or --set do_center_crop=true, or resize the image before",
        )

    def said_edge(self) -> int | None:
        """The edge of the squares that the file says, None if it says none."""
        crop, size = _edges(self.crop_size, "crop_size"), _edges(self.size, "size")
        if self.do_center_crop and (edge := crop.get("height", crop.get("shortest_edge"))):
            return edge
        return size.get("height", size.get("shortest_edge"))

    def square(self, image: np.ndarray, edge: int) -> Pixels:
        """The image as a square.

        Raises:
            UsageError: the image is not decoded, or the processor makes no such square of it.
        """
        whole = decoded(image)
        if self.do_pad:
            whole = _padded(whole, self.color)
        if self.do_resize:
            said = _edges(self.size, "size")
            shorter = said.get("shortest_edge", edge if not said and self.do_center_crop else None)
            if shorter is None:
                whole = resize(whole, (edge, edge), filter=self.filter)
            else:
                scale = shorter / (self.said_edge() or shorter)  # other than 1 where less is cut out
                whole = resize_shorter_edge(whole, round(edge * scale), filter=self.filter)
        if self.do_center_crop:
            whole = centre(whole, (edge, edge))
        if whole.shape[:2] != (edge, edge):
            raise self._unfit(whole, (edge, edge))
        return normalize(whole, self.normalization)


class Squares:
    """Makes the squares that a tower sees. `is_resampled`: it runs any grid, so the file decides the size."""

    def __init__(self, values: Values, role: str = "vision", *, is_resampled: bool = False) -> None:
        self.processor = fill(ImageProcessor, values)
        self.patch = fill(Square, values, role).patch
        self._square = fill(Square, values, role)
        self._is_resampled = is_resampled
        asked = values.values.get(f"{role}.image_size")
        is_for_this_run = asked is not None and (
            asked.source == "given" or str(asked.evidence).startswith("--set")
        )
        self._is_asked = is_for_this_run and bool(self._square.image_size)

    @property
    def pixels(self) -> int:
        """The edge in pixels.

        Raises:
            UsageError: the file says another one than the tower has, and nobody asked for it.
        """
        own, said = self._square.pixels, self.processor.said_edge()
        if said is None or said == own or self._is_asked:
            return own
        is_cut = not self._square.image_size and said // self.patch == self._square.edge
        if is_cut or self._is_resampled:
            return said
        raise UsageError(
            f"the image processor makes squares of {said} pixels, the tower was made for {own}",
            hint=f"--set vision.image_size={said} interpolates its positions, "
            f"--set vision.image_size={own} makes the images fit",
        )

    @property
    def edge(self) -> int:
        """The patches along an edge."""
        return self.pixels // self.patch

    @property
    def num_patches(self) -> int:
        """The patches of an image."""
        return self.edge**2

    def __call__(self, image: Any) -> Pixels:
        """The square that an image becomes.

        Raises:
            UsageError: the image is not decoded.
        """
        return self.processor.square(image, self.pixels)


Key = Literal["height", "shortest_edge"]


def _edges(said: Any, name: str) -> dict[Key, int]:
    """What a size says, in one of its two forms; empty if it says nothing.

    Raises:
        UsageError: it has another form, or is no square.
    """
    if isinstance(said, Mapping):
        known = {key: value for key, value in said.items() if value is not None}
    else:
        known = {"shortest_edge": said}  # as older files have it
    edges = {value for value in known.values() if type(value) is int and value > 0}
    if not known:
        return {}
    if len(edges) == 1 and known.keys() == {"shortest_edge"}:
        return {"shortest_edge": edges.pop()}
    if len(edges) == 1 and known.keys() == {"height", "width"}:
        return {"height": edges.pop()}
    raise UsageError(
        f"the image processor's `{name}` is not written here",
        expected='{"shortest_edge": N} or {"height": N, "width": N}',
        found=str(said),
        hint=f'--set \'{name}={{"height": N, "width": N}}\' squeezes images to a square',
    )


def _padded(image: Image, color: Color) -> Image:
    """The image in the middle of a square of one colour; an odd row or column goes after."""
    height, width = image.shape[:2]
    rows, columns = max(0, width - height), max(0, height - width)
    return pad(
        image,
        vertical=(rows // 2, rows - rows // 2),
        horizontal=(columns // 2, columns - columns // 2),
        color=color,
    )
