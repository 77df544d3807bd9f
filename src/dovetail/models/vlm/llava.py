"""LLaVA 1.5: the patches of CLIP's tower, projected, in the place of image tokens before a Llama decoder.

    b  batch    n  tokens    i  images    m  tokens of an image    d  d_model

Patches are those of the tower's second-to-last block, without the class token and without a norm, where the
config does not say otherwise. Of a SigLIP tower, which has no class token, `default` leaves out the first
patch, as in transformers.

Sources: arXiv:2310.03744; transformers@5.23.0 `modeling_llava.py`; haotian-liu/LLaVA
`llava/model/llava_arch.py`.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.inputs.llava import LEFT_OUT, LlavaInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers import clip, siglip
from dovetail.models.towers.vit import unread_states
from dovetail.models.vlm.features import build_projector, feature_layers
from dovetail.models.vlm.placeholders import filled


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaConfig:
    """What no single part owns."""

    image_token: int
    feature_layer: Any
    feature_select: str


def build_tower(values: Values) -> clip.ClipTower | siglip.SiglipTower:
    """The tower, CLIP's or SigLIP's.

    Raises:
        UsageError: a value that it needs is not known.
    """
    of = clip if values.kind("vision") == "clip" else siglip
    return of.build_tower(values, "vision")


class Llava(LanguageModel):
    """The tower, the projector, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        if values.kind("text") == "gemma":
            raise UsageError(
                "a Gemma behind LLaVA's projector is not run: transformers 4 multiplies the features of "
                "images by the root of d_model, as the tokens of text, transformers 5 does not",
                hint="everything but running it works: validate, convert, split, diff",
            )
        self.inputs = LlavaInputs(values)
        self.config = fill(LlavaConfig, values)
        self.vision = build_tower(values)
        depth = self.vision.config.layers
        self.projector = build_projector(values)
        self.layers = feature_layers(self.config.feature_layer, depth, self.projector.levels)
        self.unreached |= unread_states("vision", depth, self.layers)
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    def features(self, pixels: Float[Tensor, "i 3 height width"]) -> Float[Tensor, "i m d"]:
        """What takes the place of each image."""
        seen = self.vision(pixels, self.layers)
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
