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

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.inputs.images import Normalization, decoded, normalize, resize
from dovetail.inputs.tiles import square, tiles
from dovetail.models.decoder import Decoder
from dovetail.models.language import Inputs, LanguageModel, Side, pad_rows
from dovetail.models.layers import Linear, activation
from dovetail.models.masks import Rule, causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.siglip import build_tower
from dovetail.models.towers.vit import Output, unread
from dovetail.models.values import Values, fill
from dovetail.models.vlm.alternating import RULES, schedule
from dovetail.models.vlm.anyres import Grid, grid_of, most_tiles, packed, pooled
from dovetail.models.vlm.placeholders import expand, one_each, put

Color = tuple[float, float, float]
OUTPUTS: dict[int, Output] = {-1: "last", -2: "penultimate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaOnevisionConfig:
    """What no single part owns. `most` tiles' worth of features are kept of an image."""

    variant: str
    image_token: int
    video_token: int
    grid_pinpoints: tuple[tuple[int, int], ...]
    aspect_ratio: str
    feature_layer: int
    image_mean: Color
    image_std: Color

    @property
    def most(self) -> int:
        """The number in `aspect_ratio`."""
        return most_tiles(self.aspect_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorConfig:
    """The widths that the projector joins."""

    d_in: int
    d_out: int
    activation: str


class Projector(nn.Module):
    """Two linears and an activation."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_in, config.d_out)
        self.fc2 = Linear(config.d_out, config.d_out)
        self.act = activation(config.activation)

    def forward(self, x: Float[Tensor, "t p v"]) -> Float[Tensor, "t p d"]:
        return self.fc2(self.act(self.fc1(x)))


class Newline(nn.Module):
    """What stands at the end of a row of features."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.image_newline = nn.Parameter(torch.empty(d_model))

    def extra_repr(self) -> str:
        return f"{len(self.image_newline)}"


class LlavaOnevision(LanguageModel):
    """The tower, the projector, the newline, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.config = fill(LlavaOnevisionConfig, values)
        if self.config.feature_layer not in OUTPUTS:
            raise UsageError(
                f"feature_layer {self.config.feature_layer} is not written here", hint="known: -1, -2"
            )
        self.vision = build_tower(values, "vision")
        self.unreached |= unread("vision", self.vision.config.layers, OUTPUTS[self.config.feature_layer])
        self.projector = Projector(fill(ProjectorConfig, values, "projector"))
        self.text = build_decoder(values, "text")
        self.newline = Newline(self.text.config.d_model)
        self.head = build_head(values, "head", self.text)
        self.layer_masks = schedule(
            values.values["layer_masks"].value, self.config.variant, self.text.config.layers
        )

    @property
    def decoder(self) -> Decoder:
        return self.text

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        return self.text.table if self.head is None else self.head.weight

    @property
    def rules(self) -> Sequence[Rule | None]:
        return [RULES.get(kind) for kind in self.layer_masks]

    @property
    def pixels(self) -> int:
        """The edge of a view: the tower's, or what all resolutions are multiples of where the tower has as
        many patches in it. LLaVA-NeXT says only the resolutions: 384, of which 27 patches cover 378."""
        own, patch = self.vision.image_size, self.vision.config.patch
        common = math.gcd(*(edge for resolution in self.config.grid_pinpoints for edge in resolution))
        return common if common % own and common // patch == own // patch else own

    @property
    def edge(self) -> int:
        """The patches of a view each way."""
        return self.pixels // self.vision.config.patch

    def prepare(
        self, tokens: Sequence[Sequence[int]], images: Sequence[Sequence[Any]] = (), *, pad: Side = "left"
    ) -> Inputs:
        """Cuts the images into views, expands their placeholders and pads the rows.

        A video is an array of frames (uint8, frames x height x width x 3) among the images of its row and
        has the video placeholder.

        Raises:
            UsageError: a row is empty, its placeholders do not match its images, or an image is not
                decoded.
        """
        device = self.head_weight.device
        rows: list[list[int]] = []
        views: list[np.ndarray] = []
        frames: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        for row, seen in zip(tokens, one_each(tokens, images, "images"), strict=True):
            videos = [one for one in seen if getattr(one, "ndim", 0) == 4]
            stills = [decoded(one) for one in seen if getattr(one, "ndim", 0) != 4]
            is_single = len(stills) == 1
            own = [one.shape[:2] if is_single else (0, 0) for one in stills]
            counts = [self.num_features(size) for size in own]
            sizes += own
            views += [self._views(one, is_single) for one in stills]
            frames += [self._frames(one) for one in videos]
            half = math.ceil(self.edge / 2)
            lengths = [len(one) * half * half + 1 for one in videos]
            expanded = expand(row, self.config.image_token, counts)
            rows.append(expand(expanded, self.config.video_token, lengths))
        ids, valid = pad_rows(rows, side=pad, device=device)
        inputs = {"tokens": ids, "valid": valid}
        if views:
            inputs["pixels"] = torch.from_numpy(np.concatenate(views)).to(device)
            inputs["sizes"] = torch.tensor(sizes, device=device)
        if frames:
            inputs["frames"] = torch.from_numpy(np.concatenate(frames)).to(device)
            inputs["lengths"] = torch.tensor([len(one) for one in frames], device=device)
        return inputs

    @property
    def statistics(self) -> Normalization:
        """Mean and standard deviation of pixels."""
        return Normalization(self.config.image_mean, self.config.image_std)

    def _views(self, image: Any, is_single: bool) -> np.ndarray:
        """The whole image and its tiles; of several images only the whole."""
        size, statistics = self.pixels, self.statistics
        if is_single:
            return tiles(image, size, resolutions=self.config.grid_pinpoints, statistics=statistics)
        return square(image, size, statistics=statistics)

    def _frames(self, video: Any) -> np.ndarray:
        """The frames of a video, squeezed to squares."""
        size = (self.pixels, self.pixels)
        return np.stack([normalize(resize(decoded(frame), size), self.statistics) for frame in video])

    def grid(self, size: tuple[int, int]) -> Grid:
        """The grid of the tiles of an image of (height, width).

        Raises:
            UsageError: the resolutions are no whole numbers of tiles.
        """
        for resolution in self.config.grid_pinpoints:
            if any(edge % self.pixels for edge in resolution):
                raise UsageError(
                    f"no whole number of tiles of {self.pixels} pixels covers {list(resolution)}",
                    hint="grid_pinpoints must be multiples of the tower's image_size",
                )
        return grid_of(
            *size,
            resolutions=self.config.grid_pinpoints,
            pixels=self.pixels,
            edge=self.edge,
            most=self.config.most,
        )

    def num_features(self, size: tuple[int, int]) -> int:
        """How many features an image of (height, width) has; (0, 0) stands for one of several."""
        return self.edge**2 + (self.grid(size).num_features if any(size) else 1)

    def seen(self, pixels: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t p d"]:
        """What the tower sees in views, projected."""
        dtype = self.projector.fc1.weight.dtype
        return self.projector(self.vision(pixels.to(dtype), OUTPUTS[self.config.feature_layer]))

    def image_features(
        self, pixels: Float[Tensor, "t 3 height width"], sizes: Int[Tensor, "images 2"]
    ) -> list[Float[Tensor, "_ d"]]:
        """The features of each image; a size of (0, 0) stands for one of several in a row."""
        grids = [self.grid((height, width)) if height else None for height, width in sizes.tolist()]
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
