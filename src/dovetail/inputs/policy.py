"""The inputs of policies: cameras, an instruction as tokens, and the state of a robot.

    inputs = PolicyInputs(values)
    arrays = inputs(images, image_masks, tokens, token_mask, state)

    c  cameras    b  batch    n  tokens

As with `language.py`, there are no weights, no device and no torch in it, and it may be pickled.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from dovetail.errors import UsageError
from dovetail.inputs.arguments import refuse_arguments
from dovetail.inputs.images import Pixels, decoded, pi0_pixels
from dovetail.inputs.language import Arrays
from dovetail.inputs.processor import ImageProcessor
from dovetail.inputs.square import Square
from dovetail.inputs.values import Values, fill


class PolicyInputs:
    """Makes the inputs of pi0 and pi0.5.

    `vocab` is the number of rows of the token table; `d_state` is the width of the state, 0 where the text
    says it; `d_action` is the width of an action, `horizon` how many it makes at once; `prompt` is how the
    policy is told what to do.
    """

    def __init__(self, values: Values) -> None:
        self.family = values.family.id
        self.vocab = values.integer("vlm.vocab")
        self.square = fill(Square, values, "vision")
        self.processor = fill(ImageProcessor, values)
        self.prompt = values.family.prompt
        self.d_action = values.integer("heads.d_action")
        self.horizon = values.integer("heads.action_horizon")
        self.is_state_text = "{state}" in self.prompt.frame
        self.d_state = 0 if self.is_state_text else values.integer("heads.d_state")

    def num_features(self, height: int, width: int) -> int:
        """How many tokens a camera's image becomes."""
        return self.square.num_patches

    def __call__(
        self,
        images: Any = (),
        image_masks: Any = (),
        tokens: Any = (),
        token_mask: Any = (),
        state: Any = None,
        **foreign: object,
    ) -> Arrays:
        """The inputs for a batch.

        `images[camera][row]` is decoded (uint8, height x width x 3), or all are pixels of one size in
        [-1, 1], [camera, batch, 3, height, width], which pass as they are. Masks are true where there is
        something: `image_masks` [camera, batch], `token_mask` [batch, tokens]. `state` [batch, width], as
        the model was trained with it; a narrower one is followed by zeros.

        Raises:
            UsageError: the shapes do not agree, an image is not decoded, a token is outside the vocabulary,
                a number is not finite, or an argument is unknown.
        """
        refuse_arguments(foreign, known="images, image_masks, tokens, token_mask, state")
        pixels = self._pixels(images)
        ids, mask = np.asarray(tokens, np.int64), np.asarray(token_mask, bool)
        cameras = np.asarray(image_masks, bool)
        if cameras.shape != pixels.shape[:2] or ids.shape != mask.shape or len(ids) != pixels.shape[1]:
            raise UsageError(
                f"{self._what(pixels, cameras)} do not agree",
                images=f"{pixels.shape[0]} cameras, {pixels.shape[1]} rows",
                image_masks=cameras.shape,
                tokens=ids.shape,
                token_mask=mask.shape,
                hint="masks of images are [camera, batch], tokens and their mask [batch, tokens]",
            )
        self.check_tokens(ids[mask])
        if not np.isfinite(pixels[cameras]).all():
            raise UsageError("pixels are NaN or infinite", hint="pixels are numbers in [-1, 1]")
        arrays = {"pixels": pixels, "image_masks": cameras, "tokens": ids, "token_mask": mask}
        return {**arrays, "state": self._state(state, len(ids))} if self.d_state else arrays

    def check_tokens(self, tokens: Any) -> None:
        """Refuses token ids that the table does not have.

        Raises:
            UsageError: there is one.
        """
        ids = np.asarray(tokens)
        wrong = ids[(ids < 0) | (ids >= self.vocab)]
        if wrong.size:
            raise UsageError(
                f"token {wrong[0]} is none of the policy's {self.vocab}",
                hint="the tokenizer is of another model, or --tokens is wrong",
            )

    def _what(self, pixels: np.ndarray, cameras: np.ndarray) -> str:
        """Which of the inputs disagree."""
        if cameras.shape[:1] != pixels.shape[:1]:
            return "the cameras of images and image_masks"
        return (
            "images and image_masks" if cameras.shape != pixels.shape[:2] else "images, tokens and token_mask"
        )

    def _pixels(self, images: Any) -> Float[np.ndarray, "c b 3 height width"]:
        if not isinstance(images, list | tuple):
            pixels = np.asarray(images)
            if pixels.ndim == 5 and pixels.dtype.kind == "f" and pixels.shape[2] == 3:
                return pixels
        rows = {len(camera) for camera in images}
        if not rows:
            raise UsageError(
                "there is no camera", hint="give for each camera a list of images, one for each row"
            )
        if len(rows) != 1:
            raise UsageError(
                "every camera has an image for every row",
                found=f"rows: {sorted(rows)}",
                hint="give every camera one image for each row",
            )
        return np.stack(
            [
                np.stack(
                    [self._square(decoded(image, f"camera {i}, row {j}")) for j, image in enumerate(camera)]
                )
                for i, camera in enumerate(images)
            ]
        )

    def _square(self, image: np.ndarray) -> Pixels:
        """An image as the tower sees it: as openpi and lerobot do it, or as a file of transformers says."""
        edge = self.square.pixels
        return (
            self.processor.fitted(image, edge)
            if self.processor.is_fitted
            else pi0_pixels(image, (edge, edge))
        )

    def _state(self, state: Any, rows: int) -> Float[np.ndarray, "b width"]:
        if state is None:
            raise UsageError(
                "this policy needs the state of the robot",
                expected=f"[{rows}, {self.d_state}]",
                hint="give --state NUMBERS, or a .npy file",
            )
        given = np.asarray(state)
        if given.dtype.kind != "f" or isinstance(state, list | tuple):
            given = given.astype(np.float32)
        if given.ndim != 2 or len(given) != rows or given.shape[1] > self.d_state:
            raise UsageError(
                "the state does not fit the policy",
                expected=f"({rows}, at most {self.d_state})",
                found=str(given.shape),
                hint="give the numbers that the policy was trained with, in their order",
            )
        if not np.isfinite(given).all():
            raise UsageError("the state holds NaN or infinity", hint="give finite numbers, normalised")
        return np.pad(given, ((0, 0), (0, self.d_state - given.shape[1])))
