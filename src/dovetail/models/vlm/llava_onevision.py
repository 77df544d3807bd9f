"""LLaVA-OneVision: the features of tiles, of several images or of a video before a Qwen2 decoder.

    b  batch    n  tokens    d  d_model    t  views of all images (tiles, wholes)    m  features of all

    one image in a row    the whole image, then its tiles, a newline after each row of the grid (anyres.py)
    several               each as a whole, one newline after it
    a video               its frames, pooled; one newline at the very end

The variants `alternating` and `alternating_cross` are the same weights under other masks: `layer_masks`
says what each layer is (alternating.py).

Sources: arXiv:2408.03326; transformers@5.23.0 `modeling_llava_onevision.py`; LLaVA-VL/LLaVA-NeXT
`llava/model/llava_arch.py`; mavleo96/LLaVA-Alternating-Attn@ffa93fe. The tower is SigLIP's without its
last block, its output not normed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.inputs.llava_onevision import LlavaOnevisionInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.masks import Rule, causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.siglip import build_tower
from dovetail.models.towers.vit import unread_states
from dovetail.models.vlm.alternating import RULES, schedule
from dovetail.models.vlm.anyres import packed, pooled
from dovetail.models.vlm.features import build_projector, feature_layers
from dovetail.models.vlm.placeholders import put


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaOnevisionConfig:
    """What no single part owns."""

    variant: str
    image_token: int
    video_token: int
    feature_layer: Any
    feature_select: str


class Newline(nn.Module):
    """What stands at the end of a row of features."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.image_newline = nn.Parameter(torch.empty(d_model))

    def extra_repr(self) -> str:
        return f"{len(self.image_newline)}"


class LlavaOnevision(LanguageModel):
    """The tower, the projector, the newline, the decoder and its head."""

    inputs: LlavaOnevisionInputs

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = LlavaOnevisionInputs(values)
        self.config = fill(LlavaOnevisionConfig, values)
        if self.config.feature_select not in ("full", "cls_patch"):
            raise UsageError(
                f"features `{self.config.feature_select}` are not written here: the first patch would be "
                "left out of a square of them",
                hint="LLaVA-OneVision takes all (vision_feature_select_strategy: full)",
            )
        self.vision = build_tower(values, "vision")
        depth = self.vision.config.layers
        self.projector = build_projector(values)
        self.layers = feature_layers(self.config.feature_layer, depth, self.projector.levels)
        self.unreached |= unread_states("vision", depth, self.layers)
        self.text = build_decoder(values, "text")
        self.newline = Newline(self.text.config.d_model)
        self.head = build_head(values, "head", self.text)
        self.layer_masks = schedule(
            values.values["layer_masks"].value, self.config.variant, self.text.config.layers
        )

    @property
    def rules(self) -> Sequence[Rule | None]:
        return [RULES.get(kind) for kind in self.layer_masks]

    def seen(self, pixels: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t p d"]:
        """What the tower sees in views, projected."""
        return self.projector(self.vision(pixels, self.layers))

    def image_features(
        self, pixels: Float[Tensor, "t 3 height width"], sizes: Int[Tensor, "images 2"]
    ) -> list[Float[Tensor, "_ d"]]:
        """The features of each image; a size of (0, 0) stands for one of several in a row."""
        grids = [self.inputs.grid(height, width) if height else None for height, width in sizes.tolist()]
        counts = [1 + (math.prod(grid.tiles) if grid else 0) for grid in grids]
        newline = self.newline.image_newline
        return [
            packed(views, grid, newline) if grid else torch.cat([views[0], newline[None].to(views.dtype)])
            for views, grid in zip(torch.split(self.seen(pixels), counts), grids, strict=True)
        ]

    def video_features(
        self, frames: Float[Tensor, "t 3 height width"], lengths: Int[Tensor, " videos"]
    ) -> list[Float[Tensor, "_ d"]]:
        """The features of each video."""
        newline = self.newline.image_newline[None]
        return [
            torch.cat([video.flatten(0, 1), newline.to(video.dtype)])
            for video in torch.split(pooled(self.seen(frames)), lengths.tolist())
        ]

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        *,
        pixels: Float[Tensor, "t 3 height width"] | None = None,
        sizes: Int[Tensor, "images 2"] | None = None,
        frames: Float[Tensor, "u 3 height width"] | None = None,
        lengths: Int[Tensor, " videos"] | None = None,
    ) -> Stream:
        """The token embeddings, with the features of images and videos in their places."""
        stills = videos = None
        if pixels is not None and sizes is not None:
            stills = torch.cat(self.image_features(pixels, sizes))
        if frames is not None and lengths is not None:
            videos = torch.cat(self.video_features(frames, lengths))
        is_image = (tokens == self.config.image_token) & valid
        is_video = (tokens == self.config.video_token) & valid
        x = self.text.embed(tokens.masked_fill(is_image | is_video, 0))
        x = put(put(x, is_image, stills), is_video, videos)
        columns = Columns(valid, causal_blocks(valid), (is_image | is_video).long())
        return Stream(x, positions_of(valid), columns)
