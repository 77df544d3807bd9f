"""Qwen2-VL: the features of its vision tower in the place of image tokens, before a Qwen2 decoder.

    b  batch    n  tokens    d  d_model    p  patches of all images    m  features of all images

Every token has three positions: time, height and width (M-RoPE). In text all three count on together.
In an image they count its frames, rows and columns of features, and text goes on after the largest:

    tokens   a b IMG IMG IMG IMG IMG IMG c        the image has 2 rows of 3 features
    time     0 1   2   2   2   2   2   2 5
    height   0 1   2   2   2   3   3   3 5
    width    0 1   2   3   4   2   3   4 5

The first section of a head's channels turns with time, the next with height, the last with width.

Sources: transformers@5.23.0 `modeling_qwen2_vl.py`; arXiv:2409.12191 sec. 2.1. Padding takes position 0
here and 1 in transformers 4: nobody sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.inputs.images import Normalization
from dovetail.inputs.patches import patches
from dovetail.models.decoder import Decoder
from dovetail.models.language import Inputs, LanguageModel, Side, pad_rows
from dovetail.models.masks import causal_blocks
from dovetail.models.rotary import Rotation, sectioned_rotation
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.grids import MergerConfig
from dovetail.models.towers.qwen2_vit import Qwen2Vit, Qwen2VitConfig, qwen2_merger
from dovetail.models.values import Values, fill
from dovetail.models.vlm.placeholders import expand, filled, one_each

Color = tuple[float, float, float]
Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen2VLConfig:
    """What no single part owns."""

    image_token: int
    video_token: int
    mrope_section: tuple[int, ...]
    min_pixels: int
    max_pixels: int
    image_mean: Color
    image_std: Color


class Qwen2VL(LanguageModel):
    """The tower, the merger, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.config = fill(Qwen2VLConfig, values)
        merger = fill(MergerConfig, values, "merger")
        self.merge = merger.edge
        self.vision = Qwen2Vit(fill(Qwen2VitConfig, values, "vision"), merger.edge)
        self.merger = qwen2_merger(merger)
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    @property
    def decoder(self) -> Decoder:
        return self.text

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        return self.text.table if self.head is None else self.head.weight

    def prepare(
        self, tokens: Sequence[Sequence[int]], images: Sequence[Sequence[Any]] = (), *, pad: Side = "left"
    ) -> Inputs:
        """Cuts the images into patches, expands their placeholders and pads the rows.

        Raises:
            UsageError: a row is empty or holds a video, its placeholders do not match its images, or an
                image is not decoded or too long.
        """
        if any(self.config.video_token in row for row in tokens):
            raise UsageError(
                f"a row holds token {self.config.video_token}, a video; videos are not written here",
                hint="give frames as images",
            )
        device = self.head_weight.device
        cut = [[self.patches(image) for image in row] for row in one_each(tokens, images, "images")]
        grids = [[one.grid for one in row] for row in cut]
        counts = [[self.num_features(grid) for grid in row] for row in grids]
        image_token = self.config.image_token
        rows = [expand(row, image_token, count) for row, count in zip(tokens, counts, strict=True)]
        ids, valid = pad_rows(rows, side=pad, device=device)
        positions = torch.zeros(3, *ids.shape, dtype=torch.long)
        for i, (row, of) in enumerate(zip(rows, grids, strict=True)):
            positions[:, i, valid[i].cpu()] = mrope_positions(row, of, image_token, self.merge)
        inputs = {"tokens": ids, "valid": valid, "positions": positions.to(device)}
        if values := [torch.from_numpy(one.values) for row in cut for one in row]:
            inputs["pixels"] = torch.cat(values).to(device)
            inputs["grids"] = torch.tensor([grid for row in grids for grid in row], device=device)
        return inputs

    def patches(self, image: Any) -> Any:
        """The patches of one image, and their grid."""
        config = self.config
        return patches(
            image,
            patch=self.vision.config.patch,
            frames=self.vision.config.frames,
            merge=self.merge,
            min_pixels=config.min_pixels,
            max_pixels=config.max_pixels,
            statistics=Normalization(config.image_mean, config.image_std),
        )

    def num_features(self, grid: Grid) -> int:
        """How many features an image of this grid has."""
        return grid[0] * grid[1] * grid[2] // self.merge**2

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        positions: Int[Tensor, "3 b n"],
        pixels: Float[Tensor, "p values"] | None = None,
        grids: Int[Tensor, "images 3"] | None = None,
    ) -> Stream:
        """The token embeddings, with the features of the images in their places."""
        features = None if pixels is None or grids is None else self.merger(self.vision(pixels, grids))
        where = (tokens == self.config.image_token) & valid
        x = filled(self.text.embed, tokens, where, features)
        return Stream(x, positions, Columns(valid, causal_blocks(valid), where.long()))

    def rotation(self, stream: Stream) -> Rotation:
        """The rotation of every token by its three positions."""
        frequency = self.text.frequencies(stream.x.device)
        return sectioned_rotation(stream.positions, frequency, self.config.mrope_section, stream.x.dtype)


def mrope_positions(
    row: Sequence[int], grids: Sequence[Grid], image_token: int, merge: int
) -> Int[Tensor, "3 n"]:
    """Time, height and width of every token of an expanded row without padding."""
    pieces: list[Tensor] = []
    left = iter(grids)
    i = following = 0
    while i < len(row):
        if row[i] == image_token:
            frames, rows, columns = next(left)
            axes = [torch.arange(length) for length in (frames, rows // merge, columns // merge)]
            piece = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        else:
            piece = torch.zeros(3, 1, dtype=torch.long)
        pieces.append(piece + following)
        following = int(pieces[-1].max()) + 1
        i += piece.shape[1]
    return torch.cat(pieces, dim=1)
