"""Qwen2-VL: the features of its vision tower in the place of image tokens, before a Qwen2 decoder.

    b  batch    n  tokens    d  d_model    p  patches of all images    m  features of all images

Every token has three positions: time, height and width (M-RoPE, `dovetail.inputs.mrope`).
The first section of a head's channels turns with time, the next with height, the last with width.

Sources: transformers@5.23.0 `modeling_qwen2_vl.py`; arXiv:2409.12191 sec. 2.1.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dovetail.inputs.qwen2_vl import Qwen2VLInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.decoder import Decoder
from dovetail.models.language import LanguageModel
from dovetail.models.masks import causal_blocks
from dovetail.models.rotary import Rotation, sectioned_rotation
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.grids import MergerConfig
from dovetail.models.towers.qwen2_vit import Qwen2Vit, Qwen2VitConfig, qwen2_merger
from dovetail.models.vlm.placeholders import filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen2VLConfig:
    """What no single part owns."""

    image_token: int
    mrope_section: tuple[int, ...]


class Qwen2VL(LanguageModel):
    """The tower, the merger, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = Qwen2VLInputs(values)
        self.config = fill(Qwen2VLConfig, values)
        merger = fill(MergerConfig, values, "merger")
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
