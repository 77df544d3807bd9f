"""LLaVA 1.5: the patches of CLIP's tower, projected, in the place of image tokens before a Llama decoder.

    b  batch    n  tokens    i  images    m  tokens of an image    d  d_model

Patches are those of the tower's second-to-last block, without the class token and without a norm.

Sources: arXiv:2310.03744; transformers@5.23.0 `modeling_llava.py`; haotian-liu/LLaVA
`llava/model/llava_arch.py`.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.inputs.llava import LEFT_OUT, LlavaInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.clip import build_tower
from dovetail.models.towers.vit import unread
from dovetail.models.vlm.llava_onevision import OUTPUTS, Projector, ProjectorConfig
from dovetail.models.vlm.placeholders import filled


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaConfig:
    """What no single part owns."""

    image_token: int
    feature_layer: int
    feature_select: str


class Llava(LanguageModel):
    """The tower, the projector, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = LlavaInputs(values)
        self.config = fill(LlavaConfig, values)
        if self.config.feature_layer not in OUTPUTS:
            raise UsageError(
                f"features `{self.config.feature_select}` of layer {self.config.feature_layer} are not "
                "written here",
                hint=f"known layers: {', '.join(map(str, OUTPUTS))}",
            )
        self.vision = build_tower(values, "vision")
        self.unreached |= unread("vision", self.vision.config.layers, OUTPUTS[self.config.feature_layer])
        self.projector = Projector(fill(ProjectorConfig, values, "projector"))
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

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
