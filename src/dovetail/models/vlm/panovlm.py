"""PanoVLM and its rewrite CORA: views of a panorama, resampled, stitched and put among the tokens.

    b  batch    v  views of a panorama    p  patches of a view    m  tokens of a view    h w  their grid
    d  d_model    n  tokens

    panorama -> views -> tower -> (norm) -> resampler -> (positions) -> projector -> stitch -> decoder

Both write the same tensors and run them differently; `dovetail.inputs.panovlm` says how.

Sources: wooseungw/panollava@48559af `src/cora/model/{vlm,vision_encoder,language_fusion}.py`, @ab73e9e
`legacy/src_panovlm/models/{model,language_fusion}.py`, `legacy/src_panovlm/config/schema.py`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.grids import tallest_over
from dovetail.inputs.panovlm import PanoVlmInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.resamplers import build_resampler
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.siglip import build_tower
from dovetail.models.towers.vit import unread
from dovetail.models.vlm.placeholders import filled
from dovetail.models.vlm.stitch import PositionConfig, positions, stitched

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

    inputs: PanoVlmInputs

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = PanoVlmInputs(values)
        self.config = fill(PanoVlmConfig, values)
        self.positions = fill(PositionConfig, values)
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

    def features(self, pixels: Float[Tensor, "b v 3 height width"]) -> Float[Tensor, "b v m e"]:
        """What the resampler makes of each view."""
        x = self.vision(pixels.flatten(0, 1))
        x = x if self.vision_norm is None else self.vision_norm(x)
        return self.resampler(x).unflatten(0, pixels.shape[:2])

    def project(self, x: Float[Tensor, "b v m e"]) -> Float[Tensor, "b n d"]:
        """The tokens of a panorama, from those of its views."""
        if x.shape[1] == 1 or not self.inputs.pipeline.first_is_whole:
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

    def _placed_on_sphere(self, x: Float[Tensor, "b v m e"]) -> Float[Tensor, "b v m e"]:
        """Adds the positions, if there are any."""
        if not self.inputs.pipeline.has_positions:
            return x
        rows, columns = tallest_over(x.shape[2])
        if rows * columns != x.shape[2]:
            raise UsageError(
                f"positions need a grid of tokens, and {x.shape[2]} make none",
                hint="give settings={'has_positions': False}",
            )
        added = positions(x.shape[1], rows, columns, x.shape[3], self.positions)
        return x + rearrange(added, "v h w e -> v (h w) e").to(x.device, x.dtype)

    def _stitched(self, x: Float[Tensor, "b v m d"]) -> Float[Tensor, "b n d"]:
        """The views joined; where their tokens make no grid, one after the other."""
        rows, columns = tallest_over(x.shape[2])
        if rows * columns != x.shape[2]:
            return x.flatten(1, 2)
        return stitched(rearrange(x, "b v (h w) d -> b v h w d", h=rows), self.inputs.stitch)


def build_panovlm(values: Values) -> nn.Module:
    """The model, or the resampler where there is nothing else.

    Raises:
        UsageError: a part is missing, or a value that it needs is not known.
    """
    return Resampler(values) if set(values.kinds) == {"resampler"} else PanoVlm(values)
