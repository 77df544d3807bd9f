"""LLaVA 1.5: the patches of CLIP's tower, projected, in the place of image tokens before a Llama decoder.

    b  batch    n  tokens    i  images    m  tokens of an image    d  d_model

Patches are those of the tower's second-to-last block, without the class token and without a norm.

Sources: arXiv:2310.03744; transformers@5.23.0 `modeling_llava.py`; haotian-liu/LLaVA
`llava/model/llava_arch.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.inputs.images import Normalization, clip_pixels
from dovetail.models.decoder import Decoder
from dovetail.models.language import Inputs, LanguageModel, Side, pad_rows
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.clip import build_tower
from dovetail.models.towers.vit import unread
from dovetail.models.values import Values, fill
from dovetail.models.vlm.llava_onevision import OUTPUTS, Projector, ProjectorConfig
from dovetail.models.vlm.placeholders import expand, filled, one_each

Color = tuple[float, float, float]
# what configs call leaving the class token out, and keeping it: how many tokens go
LEFT_OUT = {"default": 1, "patch": 1, "full": 0, "cls_patch": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaConfig:
    """What no single part owns."""

    image_token: int
    feature_layer: int
    feature_select: str
    image_mean: Color
    image_std: Color


class Llava(LanguageModel):
    """The tower, the projector, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.config = fill(LlavaConfig, values)
        layer, select = self.config.feature_layer, self.config.feature_select
        if layer not in OUTPUTS or select not in LEFT_OUT:
            raise UsageError(
                f"features `{select}` of layer {layer} are not written here",
                hint=f"known: {', '.join(LEFT_OUT)} of {', '.join(map(str, OUTPUTS))}",
            )
        self.vision = build_tower(values, "vision")
        self.unreached |= unread("vision", self.vision.config.layers, OUTPUTS[layer])
        self.projector = Projector(fill(ProjectorConfig, values, "projector"))
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    @property
    def decoder(self) -> Decoder:
        return self.text

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        return self.text.table if self.head is None else self.head.weight

    @property
    def tokens_per_image(self) -> int:
        """How many tokens an image becomes."""
        patches = (self.vision.image_size // self.vision.config.patch) ** 2
        return patches + 1 - LEFT_OUT[self.config.feature_select]

    def prepare(
        self, tokens: Sequence[Sequence[int]], images: Sequence[Sequence[Any]] = (), *, pad: Side = "left"
    ) -> Inputs:
        """Cuts the middle out of the images, expands their placeholders and pads the rows.

        Raises:
            UsageError: a row is empty, its placeholders do not match its images, or an image is not decoded.
        """
        weight = self.vision.patch_embed.weight
        seen = one_each(tokens, images, "images")
        rows = [
            expand(row, self.config.image_token, [self.tokens_per_image] * len(of))
            for row, of in zip(tokens, seen, strict=True)
        ]
        ids, valid = pad_rows(rows, side=pad, device=weight.device)
        inputs = {"tokens": ids, "valid": valid}
        if whole := [self._pixels(image) for of in seen for image in of]:
            inputs["pixels"] = torch.from_numpy(np.stack(whole)).to(weight.device, weight.dtype)
        return inputs

    def features(self, pixels: Float[Tensor, "i 3 height width"]) -> Float[Tensor, "i m d"]:
        """What takes the place of each image."""
        seen = self.vision(pixels, OUTPUTS[self.config.feature_layer])
        return self.projector(seen[:, LEFT_OUT[self.config.feature_select] :])

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        pixels: Float[Tensor, "i 3 height width"] | None = None,
    ) -> Stream:
        """The token embeddings, with the features of the images in their places."""
        seen = None if pixels is None else self.features(pixels).flatten(0, 1)
        where = (tokens == self.config.image_token) & valid
        x = filled(self.text.embed, tokens, where, seen)
        return Stream(x, positions_of(valid), Columns(valid, causal_blocks(valid), where.long()))

    def _pixels(self, image: Any) -> np.ndarray:
        statistics = Normalization(self.config.image_mean, self.config.image_std)
        return clip_pixels(image, self.vision.image_size, statistics=statistics)
