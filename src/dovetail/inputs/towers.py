"""The inputs of vision towers by themselves: images as pixels or patches, without a token among them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dovetail.errors import UsageError
from dovetail.inputs.arguments import refuse_arguments
from dovetail.inputs.images import BILINEAR, decoded
from dovetail.inputs.language import Arrays
from dovetail.inputs.naflex import flexible_patches, flexible_size
from dovetail.inputs.processor import ImageProcessor, Squares
from dovetail.inputs.rows import token_ids
from dovetail.inputs.values import Values, fill


class TowerInputs(ABC):
    """Makes the inputs of a vision tower, and of the text tower beside it, if there is one.

    `text_length` is the most tokens of a text, None without a text tower.
    """

    def __init__(self, values: Values) -> None:
        self.family = values.family.id
        self.text_length = values.integer("text.positions") if values.has("text") else None
        self.vocab = values.integer("text.vocab") if values.has("text") else 0

    @abstractmethod
    def num_features(self, height: int, width: int) -> int:
        """How many features an image has."""

    @abstractmethod
    def arrays(self, images: Sequence[np.ndarray]) -> Arrays:
        """The inputs that decoded images become."""

    def __call__(self, images: Iterable[Any] = (), **foreign: object) -> Arrays:
        """The inputs for decoded images (uint8, height x width x 3).

        Raises:
            UsageError: an image is not decoded, there is none, or an argument is unknown.
        """
        refuse_arguments(foreign, known="images")
        whole = [decoded(image, f"image {i}") for i, image in enumerate(images)]
        if not whole:
            raise UsageError("there is no image", hint="give a list of decoded images")
        return self.arrays(whole)

    def texts(self, rows: Iterable[Any]) -> Arrays:
        """The tokens of texts, all of one length, for the text tower.

        Raises:
            UsageError: there is no text tower or no text, texts have different lengths, or one is too long.
        """
        if self.text_length is None:
            raise UsageError("this is a vision tower alone, and reads no texts", hint="give images only")
        ids = [token_ids(row, f"text {i}") for i, row in enumerate(rows)]
        lengths = {len(row) for row in ids}
        if len(lengths) != 1 or not 0 < min(lengths) <= self.text_length:
            raise UsageError(
                "texts are padded to one length by their tokenizer",
                expected=f"1 to {self.text_length} tokens, for all the same",
                found=f"{sorted(lengths) or 'no text'}",
                hint="pad the texts as the model's tokenizer does",
            )
        wrong = [id for row in ids for id in row if not 0 <= id < self.vocab]
        if wrong:
            raise UsageError(f"token {wrong[0]} is none of the model's {self.vocab}", hint="ids count from 0")
        return {"tokens": np.array(ids, np.int64)}


class SquareInputs(TowerInputs):
    """Makes the inputs of a tower that sees squares of one size: SigLIP's, CLIP's."""

    def __init__(self, values: Values, *, is_resampled: bool = False) -> None:
        super().__init__(values)
        self.square = Squares(values, is_resampled=is_resampled)

    def num_features(self, height: int, width: int) -> int:
        return self.square.num_patches

    def arrays(self, images: Sequence[np.ndarray]) -> Arrays:
        return {"pixels": np.stack([self.square(image) for image in images])}


def dinov2_inputs(values: Values) -> SquareInputs:
    """The inputs of DINOv2, which takes squares of any size: those that the image processor makes.

    Raises:
        UsageError: a value that is needed is not known.
    """
    return SquareInputs(values, is_resampled=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """The size of a patch, and how many an image may have."""

    patch: int
    max_num_patches: int


class NaflexInputs(TowerInputs):
    """Cuts images into patches, each image in its own grid."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.config = fill(PatchConfig, values, "vision")
        processor = fill(ImageProcessor, values)
        is_said = "resample" in values.values  # else not as of SigLIP's squares
        self.processor = processor if is_said else replace(processor, resample=BILINEAR.value)

    def num_features(self, height: int, width: int) -> int:
        patch, most = self.config.patch, self.config.max_num_patches
        rows, columns = flexible_size(height, width, patch=patch, most=most)
        return (rows // patch) * (columns // patch)

    def arrays(self, images: Sequence[np.ndarray]) -> Arrays:
        patch, most = self.config.patch, self.config.max_num_patches
        cut = [flexible_patches(image, self.processor, patch=patch, most=most) for image in images]
        return {
            "patches": np.concatenate([one.values for one in cut]),
            "grids": np.array([one.grid for one in cut], np.int64),
        }


def siglip_inputs(values: Values) -> TowerInputs:
    """The inputs of a checkpoint of SigLIP: for square images, or NaFlex.

    Raises:
        UsageError: a value that is needed is not known.
    """
    is_naflex = values.kind("vision") == "siglip_naflex"
    return NaflexInputs(values) if is_naflex else SquareInputs(values)
