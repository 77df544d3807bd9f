"""Batches: labelled rows with the arrays that a model takes, and a target for each of its tokens.

    tokens     5 IMG 7 8 9        targets    -100 -100 -100 8 9           a row, as `labels.py` makes it
    expanded   5 IMG IMG IMG 7 8 9           -100 -100 -100 -100 -100 8 9
    padded     5 IMG IMG IMG 7 8 9 0 0       -100 -100 -100 -100 -100 8 9 -100 -100

Nothing is cut: a row that is too long is refused, and the error says what would make it fit.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Int64

from dovetail.data.labels import Labelled, of_sample
from dovetail.errors import DataError, UsageError
from dovetail.inputs.language import Arrays, LanguageInputs, Size
from dovetail.inputs.qwen_vl import QwenVLInputs
from dovetail.inputs.rows import IGNORED, pad_rows


class LabelledBatch(TypedDict):
    """What a model and its loss take; `targets` has one for each of the `tokens` of `inputs`."""

    inputs: Arrays
    targets: Int64[np.ndarray, "rows columns"]


class Expanded(NamedTuple):
    """A row with a token for each feature of its images, and a target for each token."""

    tokens: list[int]
    targets: list[int]

    @property
    def num_learned(self) -> int:
        """How many tokens are targets."""
        return sum(target != IGNORED for target in self.targets)


def expanded(inputs: LanguageInputs, row: Labelled, sizes: Sequence[Size]) -> Expanded:
    """A row as the model reads it, for images of these sizes.

    Raises:
        DataError: tokens and images do not match, or an image has a size that the model does not take.
    """
    places = {inputs.image_token, inputs.video_token}
    texts = (target for token, target in zip(row.tokens, row.targets, strict=True) if token not in places)
    try:
        tokens = inputs.expanded(row.tokens, sizes)
    except (UsageError, DataError) as error:
        raise of_sample(error, row.place) from None
    targets = [IGNORED if token in places else next(texts) for token in tokens]
    assert next(texts, None) is None
    return Expanded(tokens, targets)


def sizes_of(row: Labelled) -> list[Size]:
    """The sizes of the images and videos of a row, by the headers of their files.

    Raises:
        DataError: one cannot be read.
    """
    try:
        return [one.size() for one in row.images]
    except (UsageError, DataError) as error:
        raise of_sample(error, row.place) from None


class Batches:
    """Makes a batch of labelled rows: decodes images, expands placeholders, pads.

    It may be sent to the workers of a data loader. `max_length` is the most tokens of a row, those of
    images included."""

    def __init__(self, inputs: LanguageInputs, *, pad: str = "right", max_length: int | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise UsageError(
                f"a row of at most {max_length} tokens is none", hint="give --max-length 1 or more"
            )
        self.inputs, self.pad, self.max_length = inputs, pad, max_length

    def __call__(self, rows: Sequence[Labelled]) -> LabelledBatch:
        """The arrays of a batch.

        Raises:
            DataError: an image cannot be read, a row is too long, or there is no row. The error names the
                sample.
        """
        images = [_decoded(row) for row in rows]
        whole = [
            self.checked(row, expanded(self.inputs, row, [image.shape[:-1] for image in of]))
            for row, of in zip(rows, images, strict=True)
        ]
        prompts: list[list[int]] = [one.tokens for one in whole]
        suffixes: list[list[int]] = []
        if self.inputs.sees_prompt_whole:
            starts = [_first_target(one) for one in whole]
            suffixes = [one.tokens[start:] for one, start in zip(whole, starts, strict=True)]
            prompts = [one.tokens[:start] for one, start in zip(whole, starts, strict=True)]
        arrays = self.inputs(
            prompts, images if self.inputs.takes_images else (), pad=self.pad, suffixes=suffixes
        )
        padded, valid = pad_rows([one.targets for one in whole], side=self.pad)
        targets = np.where(valid, padded, IGNORED)
        counts = targets != IGNORED
        assert (arrays["tokens"][counts] == targets[counts]).all(), "targets are not at their tokens"
        return {"inputs": arrays, "targets": targets}

    def length(self, row: Labelled) -> int:
        """How many tokens a row becomes, by the headers of its images.

        Raises:
            DataError: it is too long, or an image cannot be read.
        """
        return len(self.checked(row, expanded(self.inputs, row, sizes_of(row))).tokens)

    def checked(self, row: Labelled, found: Expanded) -> Expanded:
        """The row, if it is not too long.

        Raises:
            DataError: it is. Nothing is cut: half of an image is none, and an answer without its end teaches
                not to end.
        """
        length, most = len(found.tokens), self.max_length
        if most is None or length <= most:
            return found
        places = {self.inputs.image_token, self.inputs.video_token}
        of_images = sum(token in places for token in found.tokens)
        raise DataError(
            f"the sample has {length:,} tokens, and a row has at most {most:,}",
            sample=row.place,
            tokens=f"{of_images:,} of images, {length - of_images:,} of text",
            hint=f"--max-length {length} holds it"
            + self._smaller_images(row, most - (length - of_images))
            + "; --on-error skip leaves it out and lists it",
        )

    def _smaller_images(self, row: Labelled, room: int) -> str:
        """What would make the images fit into the room that the text leaves."""
        if not isinstance(self.inputs, QwenVLInputs) or not row.images:
            return ""
        area = (self.inputs.patch.patch * self.inputs.merge) ** 2
        pixels = room // len(row.images) * area
        return f"; so do images of fewer pixels: --set max_pixels={pixels}" if pixels >= area else ""


def _decoded(row: Labelled) -> list[np.ndarray]:
    """The images and videos of a row.

    Raises:
        DataError: one cannot be read.
    """
    try:
        return [one.pixels() for one in row.images]
    except (UsageError, DataError) as error:
        raise of_sample(error, row.place) from None


def _first_target(row: Expanded) -> int:
    """Where the first answer begins."""
    return next(i for i, target in enumerate(row.targets) if target != IGNORED)
