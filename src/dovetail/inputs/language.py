"""Rows of token ids and their images as the arrays that a model takes: no weights, no device, no torch.

    inputs = QwenVLInputs(values)                              from sizes and settings alone
    arrays = inputs([[5, 151655, 7], [8, 9]], [[image], []])    {"tokens": ..., "valid": ..., "pixels": ...}
    inputs.num_features(1080, 1920)                             how many tokens an image becomes
    inputs.expanded([5, 151655, 7], [(1080, 1920)])             the row with as many placeholders

One object serves any number of batches and may be pickled: a data loader's workers, a gateway and the model
itself (`model.inputs`) make the same arrays.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from dovetail.errors import UsageError
from dovetail.inputs.arguments import refuse_arguments
from dovetail.inputs.images import decoded, decoded_video
from dovetail.inputs.placeholders import one_each
from dovetail.inputs.rows import pad_rows, token_ids
from dovetail.inputs.values import Values

Arrays = dict[str, np.ndarray]
Size = tuple[int, ...]  # height and width of an image; frames, height and width of a video


class Batch(NamedTuple):
    """A batch whose rows are expanded and padded. `suffixes` are the ends of rows that follow a prompt."""

    tokens: Int64[np.ndarray, "b n"]
    valid: Bool[np.ndarray, "b n"]
    rows: Sequence[Sequence[int]]
    suffixes: Sequence[Sequence[int]]
    images: Sequence[Sequence[np.ndarray]]
    sizes: Sequence[Sequence[Size]]
    pad: str


class LanguageInputs(ABC):
    """Makes the inputs of a model that reads tokens, and perhaps images.

    `vocab` is the number of rows of the token table; `image_token` and `video_token` stand for images and
    may lie outside of it, None where the family has none. `prompt` is how the family is asked.
    `sees_prompt_whole`: every token of a prompt sees all of it, so that what follows is given as `suffixes`.
    """

    takes_videos: ClassVar[bool] = False
    sees_prompt_whole: ClassVar[bool] = False

    def __init__(self, values: Values, decoder: str = "text") -> None:
        self.family = values.family.id
        self.prompt = values.family.prompt
        self.vocab = values.integer(f"{decoder}.vocab")
        self.takes_images = values.has("vision")
        self.image_token = values.integer("image_token") if "image_token" in values.values else None
        self.video_token = values.integer("video_token") if "video_token" in values.values else None

    @abstractmethod
    def num_features(self, height: int, width: int) -> int:
        """How many tokens an image becomes that is alone in its row.

        Raises:
            UsageError: the model takes no images, or none of this size.
        """

    @abstractmethod
    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        """A row with as many placeholders as its images have features, which depends on their sizes only.

        A row that is expanded already is returned as it is.

        Raises:
            UsageError: the row has another number of placeholders.
        """

    @abstractmethod
    def more(self, batch: Batch) -> Arrays:
        """What the model takes beside `tokens` and `valid`: pixels, and what describes them."""

    def __call__(
        self,
        tokens: Iterable[Any] = (),
        images: Iterable[Any] = (),
        *,
        pad: str = "left",
        suffixes: Iterable[Any] = (),
        **foreign: object,
    ) -> Arrays:
        """The inputs for a batch: rows of token ids, and for each row its images (uint8, height x width x 3).

        Where the family takes videos, a video is an array of frames among the images of its row. `suffixes`
        are what follows each prompt: an answer to train on or to go on from. `pad` is the side of padding.

        Raises:
            UsageError: a row is empty, holds a token that the model does not have, or has other placeholders
                than images; an image is not decoded; or an argument is unknown.
        """
        refuse_arguments(foreign, known="tokens, images, pad, suffixes")
        rows = [self.checked(row, f"row {i}") for i, row in enumerate(tokens)]
        images_of = one_each(rows, [self._decoded(of, i) for i, of in enumerate(images)], "images")
        suffix_of = one_each(rows, [self._suffix(row, i) for i, row in enumerate(suffixes)], "suffixes")
        sizes = [[image.shape[:-1] for image in of] for of in images_of]
        expanded = [
            [*self.expanded(row, of), *suffix] for row, of, suffix in zip(rows, sizes, suffix_of, strict=True)
        ]
        ids, valid = pad_rows(expanded, side=pad)
        batch = Batch(ids, valid, expanded, suffix_of, images_of, sizes, pad)
        return {"tokens": ids, "valid": valid, **self.more(batch)}

    def checked(self, row: Any, where: str | None = None) -> list[int]:
        """The token ids of a row, all of which the model has; `where` names it in an error.

        Raises:
            UsageError: one is outside the vocabulary and stands for no image, or it is no row of ids.
        """
        ids = token_ids(row, where or "the prompt")
        placeholders = (self.image_token, self.video_token)
        wrong = [id for id in ids if not 0 <= id < self.vocab and id not in placeholders]
        if wrong:
            raise UsageError(
                f"token {wrong[0]} is none of the model's {self.vocab}", source=where, hint="ids count from 0"
            )
        return ids

    def _suffix(self, row: Any, number: int) -> list[int]:
        ids = self.checked(row, f"suffix {number}")
        if self.takes_images and (self.image_token in ids or self.video_token in ids):
            raise UsageError(
                f"suffix {number} holds the placeholder of an image", hint="images belong to the prompt"
            )
        return ids

    def _decoded(self, images: Any, number: int) -> list[np.ndarray]:
        """The images of a row, each an array of bytes."""
        if isinstance(images, np.ndarray) and images.ndim == 3:
            raise UsageError(
                "images are given without rows",
                expected="for each row of tokens a list of its images",
                found="an image in the place of a row",
                hint="give [[image]] for one row with one image",
            )
        of_row = list(images)
        if of_row and not self.takes_images:
            raise no_images(self.family)
        return [self._one_decoded(image, f"image {i} of row {number}") for i, image in enumerate(of_row)]

    def _one_decoded(self, image: Any, where: str) -> np.ndarray:
        is_video = isinstance(image, np.ndarray) and image.ndim == 4 and self.takes_videos
        return decoded_video(image, where) if is_video else decoded(image, where)


def no_images(family: str) -> UsageError:
    """The error of an image for a model that takes none."""
    return UsageError(f"{family} is a text model: it takes no images", hint="leave the images out")
