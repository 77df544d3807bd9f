"""PaliGemma: the features of a SigLIP tower in the place of image tokens, before a Gemma decoder.

    b  batch    n  tokens    d  d_model    i  images    m  features of all images

The prompt, images and all, is one block: every token of it sees all of it. What the model answers is
causal. Positions count from 1. Gemma multiplies the embeddings of tokens by sqrt(d_model); features of
images are put between them as the projector made them.

Sources: arXiv:2407.07726 sec. 3.1; transformers@5.23.0 `modeling_paligemma.py`, which makes the prompt
causal without a word when `token_type_ids` is forgotten.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dovetail.inputs.paligemma import PaliGemmaInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.layers import Linear
from dovetail.models.masks import positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.siglip import build_tower
from dovetail.models.towers.vit import unread
from dovetail.models.vlm.placeholders import filled


@dataclass(frozen=True, slots=True, kw_only=True)
class PaliGemmaConfig:
    """What no single part owns."""

    image_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorConfig:
    """The widths that the projector joins."""

    d_in: int
    d_out: int


class PaliGemma(LanguageModel):
    """The tower, one linear, the decoder, whose table is the head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = PaliGemmaInputs(values)
        self.config = fill(PaliGemmaConfig, values)
        self.vision = build_tower(values, "vision")
        self.unreached |= unread("vision", self.vision.config.layers, "normed")
        projector = fill(ProjectorConfig, values, "projector")
        self.projector = Linear(projector.d_in, projector.d_out)
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        suffix: Bool[Tensor, "b n"],
        pixels: Float[Tensor, "i channels height width"] | None = None,
    ) -> Stream:
        """The token embeddings, with the features of the images in their places."""
        features = None
        if pixels is not None:
            features = self.projector(self.vision(pixels, "normed")).flatten(0, 1)
        where = (tokens == self.config.image_token) & valid
        x = filled(self.text.embed, tokens, where, features)
        blocks = suffix.long().cumsum(dim=-1)  # the prompt is block 0, each token after it one more
        return Stream(x, positions_of(valid) + 1, Columns(valid, blocks, where.long()))
