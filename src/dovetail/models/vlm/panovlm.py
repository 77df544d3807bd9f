"""PanoVLM and its rewrite CORA: views of a panorama, resampled, stitched and put among the tokens.

    b  batch    v  views of a panorama    p  patches of a view    m  tokens of a view    h w  their grid
    d  d_model    n  tokens

    panorama -> views -> tower -> (norm) -> resampler -> (positions) -> projector -> stitch -> decoder

Both write the same tensors and run them differently, which no weight shows; `pipeline` says it:

                        panovlm                     cora
    the first view      like the others             the whole panorama, projected by itself
    positions           none                        longitude, row and column
    views               e2p                         anyres_e2p
    interpolation       nearest                     linear

A row has one panorama, whose tokens go to its first placeholder, or to the front where it has none; other
placeholders are left out, as both do.

Sources: wooseungw/panollava@48559af `src/cora/model/{vlm,vision_encoder,language_fusion}.py`, @ab73e9e
`legacy/src_panovlm/models/{model,language_fusion}.py`, `legacy/src_panovlm/config/schema.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.images import HALF, LANCZOS, decoded, normalize, resize
from dovetail.inputs.panorama import anyres, perspective, sliding, whole
from dovetail.models.decoder import Decoder
from dovetail.models.language import Inputs, LanguageModel, Side, pad_rows
from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.resamplers import build_resampler
from dovetail.models.resamplers.grid import tallest_over
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.siglip import build_tower
from dovetail.models.towers.vit import unread
from dovetail.models.values import Values, fill
from dovetail.models.vlm.placeholders import filled, one_each
from dovetail.models.vlm.stitch import PositionConfig, StitchConfig, positions, stitched


class Pipeline(NamedTuple):
    """What PanoVLM and CORA do differently, by the names of the settings that may say it one by one."""

    first_is_whole: bool
    has_positions: bool
    crop_strategy: str
    stitch_interp: str


# what configs call the ways to cut a panorama into views
STRATEGIES = {"resize": whole, "sliding_window": sliding, "e2p": perspective, "anyres_e2p": anyres}
PIPELINES = {
    "panovlm": Pipeline(False, False, "e2p", "nearest"),
    "cora": Pipeline(True, True, "anyres_e2p", "linear"),
}

# parameters that no step of the last stage of training reads, and why
UNREAD = {
    "vicreg.*": "only the first stage of training reads it, and it is not written here",
    "text_projection.*": "only the first stage of training reads it, and it is not written here",
    "resampler.bert.embeddings.word_embeddings.*": "queries come as embeddings, not as words",
    "resampler.bert.pooler.*": "the states of all queries go on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PanoVlmConfig:
    """What no single part owns, and no code base decides."""

    image_token: int
    fov_deg: float
    view_overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorConfig:
    """The sizes of the projector."""

    d_in: int
    d_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VicregConfig:
    """The sizes of the head that only training uses."""

    d_in: int
    d_hidden: int
    d_out: int


class Vicreg(nn.Module):
    """The head of the first stage of training, through which neighbouring views are compared."""

    def __init__(self, config: VicregConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_in, config.d_hidden)
        self.norm = LayerNorm(config.d_hidden)
        self.fc2 = Linear(config.d_hidden, config.d_out)

    def forward(self, x: Float[Tensor, "b m d_in"]) -> Float[Tensor, "b m d_out"]:
        return self.fc2(F.gelu(self.norm(self.fc1(x))))


class Resampler(nn.Module):
    """A resampler by itself, cut out of a checkpoint."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.resampler = build_resampler(values)

    def forward(self, x: Float[Tensor, "b p in_dim"]) -> Float[Tensor, "b m out_dim"]:
        return self.resampler(x)


class PanoVlm(LanguageModel):
    """The tower, the resampler, the projector, the decoder and its head.

    `vicreg` and `text_projection` belong to training; nothing here runs them.
    """

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.config = fill(PanoVlmConfig, values)
        self.vision = build_tower(values, "vision")
        self.unreached |= unread("vision", self.vision.config.layers, "normed") | UNREAD
        self.vision_norm = LayerNorm(self.vision.config.d_vision) if values.has("vision_norm") else None
        self.resampler = build_resampler(values)
        projector = fill(ProjectorConfig, values, "projector")
        self.projector = Linear(projector.d_in, projector.d_out)
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)
        self.vicreg = Vicreg(fill(VicregConfig, values, "vicreg")) if values.has("vicreg") else None
        d = self.text.config.d_model
        self.text_projection = Linear(d, d) if values.has("text_projection") else None

    @property
    def decoder(self) -> Decoder:
        return self.text

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        return self.text.table if self.head is None else self.head.weight

    @cached_property
    def pipeline(self) -> Pipeline:
        """What the checkpoint's code base does, but for what a config says otherwise.

        Raises:
            UsageError: nothing says which it is, or there is no such one.
        """
        values = self.values.values
        name = values["pipeline"].value
        if name is not None and name not in PIPELINES:
            raise UsageError(f"no pipeline is called `{name}`", hint=f"one of: {', '.join(PIPELINES)}")
        known = {field: values[field].value for field in Pipeline._fields}
        if name is None and None in known.values():
            raise UsageError(
                "nothing says which code this checkpoint was trained with, and its views depend on it",
                hint='give settings={"pipeline": "panovlm"} or "cora" (--set pipeline=cora)',
            )
        default = PIPELINES[name]._asdict() if name else {}
        return Pipeline(**{field: default[field] if one is None else one for field, one in known.items()})

    def prepare(
        self, tokens: Sequence[Sequence[int]], images: Sequence[Sequence[Any]] = (), *, pad: Side = "left"
    ) -> Inputs:
        """Cuts each row's panorama into views, makes room for their tokens and pads the rows.

        Several images in a row are the views themselves, in order.

        Raises:
            UsageError: a row is empty, an image is not decoded, rows have different numbers of views, or
                nothing says how a panorama is cut.
        """
        device, weight = self.head_weight.device, self.vision.patch_embed.weight
        views = [self._views(of) if of else None for of in one_each(tokens, images, "images")]
        given = [one for one in views if one is not None]
        if len({len(one) for one in given}) > 1:
            raise UsageError(
                "all rows of a batch have as many views", found=str(sorted({len(one) for one in given}))
            )
        rows = [
            list(row) if of is None else self._placed(row, self.num_tokens(len(of)))
            for row, of in zip(tokens, views, strict=True)
        ]
        ids, valid = pad_rows(rows, side=pad, device=device)
        inputs = {"tokens": ids, "valid": valid}
        if given:
            inputs["pixels"] = torch.from_numpy(np.stack(given)).to(weight.device, weight.dtype)
        return inputs

    def num_tokens(self, views: int) -> int:
        """How many tokens that many views become."""
        tokens = self._tokens_per_view
        whole = int(views > 1 and self.pipeline.first_is_whole)
        rest = self._stitched(torch.zeros(1, views - whole, tokens, 1))
        return tokens * whole + rest.shape[1]

    def features(self, pixels: Float[Tensor, "b v 3 height width"]) -> Float[Tensor, "b v m e"]:
        """What the resampler makes of each view."""
        x = self.vision(pixels.flatten(0, 1))
        x = x if self.vision_norm is None else self.vision_norm(x)
        return self.resampler(x).unflatten(0, pixels.shape[:2])

    def project(self, x: Float[Tensor, "b v m e"]) -> Float[Tensor, "b n d"]:
        """The tokens of a panorama, from those of its views."""
        if x.shape[1] == 1 or not self.pipeline.first_is_whole:
            return self._stitched(self.projector(self._placed_on_sphere(x)))
        tiles = self._stitched(self.projector(self._placed_on_sphere(x[:, 1:])))
        return torch.cat([self.projector(x[:, 0]), tiles], dim=1)

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        pixels: Float[Tensor, "_ v 3 height width"] | None = None,
    ) -> Stream:
        """The token embeddings, with the views in their places."""
        seen = None if pixels is None else self.project(self.features(pixels)).flatten(0, 1)
        where = (tokens == self.config.image_token) & valid
        x = filled(self.text.embed, tokens, where, seen)
        return Stream(x, positions_of(valid), Columns(valid, causal_blocks(valid), where.long()))

    @cached_property
    def _tokens_per_view(self) -> int:
        """Found out by a resampler without weights."""
        edge = self.vision.image_size // self.vision.config.patch
        with torch.device("meta"):
            twin = build_resampler(self.values).eval()
            return int(twin(torch.empty(1, edge**2, self.vision.config.d_vision)).shape[1])

    def _placed(self, row: Sequence[int], count: int) -> list[int]:
        """The row with that many placeholders in one place; a row that has them is left as it is."""
        token = self.config.image_token
        if list(row).count(token) == count:
            return list(row)
        start = list(row).index(token) if token in row else 0
        rest = [one for one in row if one != token]
        return [*rest[:start], *[token] * count, *rest[start:]]

    def _placed_on_sphere(self, x: Float[Tensor, "b v m e"]) -> Float[Tensor, "b v m e"]:
        """Adds the positions, if there are any."""
        if not self.pipeline.has_positions:
            return x
        rows, columns = tallest_over(x.shape[2])
        if rows * columns != x.shape[2]:
            raise UsageError(
                f"positions need a grid of tokens, and {x.shape[2]} make none",
                hint="give settings={'has_positions': False}",
            )
        config = fill(PositionConfig, self.values)
        added = positions(x.shape[1], rows, columns, x.shape[3], config)
        return x + rearrange(added, "v h w e -> v (h w) e").to(x.device, x.dtype)

    def _stitched(self, x: Float[Tensor, "b v m d"]) -> Float[Tensor, "b n d"]:
        """The views joined; where their tokens make no grid, one after the other."""
        rows, columns = tallest_over(x.shape[2])
        if rows * columns != x.shape[2]:
            return x.flatten(1, 2)
        config = fill(StitchConfig, self.values, stitch_interp=self.pipeline.stitch_interp)
        return stitched(rearrange(x, "b v (h w) d -> b v h w d", h=rows), config)

    def _views(self, images: Sequence[Any]) -> Float32[np.ndarray, "v 3 size size"]:
        size = (self.vision.image_size, self.vision.image_size)
        if len(images) > 1:
            return np.stack([normalize(resize(decoded(one), size, filter=LANCZOS), HALF) for one in images])
        strategy = self.pipeline.crop_strategy
        if strategy not in STRATEGIES:
            raise UsageError(
                f"views of a panorama by `{strategy}` are not written here",
                hint=f"one of: {', '.join(STRATEGIES)}; or give a row its views as its images",
            )
        return STRATEGIES[strategy](
            images[0], size, fov=self.config.fov_deg, overlap=self.config.view_overlap
        )


def build_panovlm(values: Values) -> nn.Module:
    """The model, or the resampler where there is nothing else.

    Raises:
        UsageError: a part is missing, or a value that it needs is not known.
    """
    return Resampler(values) if set(values.kinds) == {"resampler"} else PanoVlm(values)
