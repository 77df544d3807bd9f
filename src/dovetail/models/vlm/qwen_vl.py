"""What the Qwen-VL families share: features of images of any size in the place of image tokens.

    b  batch    n  tokens    d  d_model    p  patches of all images    m  features of all images

Every token has three positions: time, height and width (M-RoPE, `dovetail.inputs.mrope`). A family says
what its tower and mergers make of patches (`seen`), and which channels turn with which position (`turn`).

Sources: transformers@5.23.0 `modeling_{qwen2_vl,qwen2_5_vl,qwen3_vl}.py`; arXiv:2409.12191 sec. 2.1.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dovetail.inputs.qwen_vl import QwenVLInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.masks import causal_blocks
from dovetail.models.rotary import Rotation
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.vlm.placeholders import filled, put

Turn = Callable[[Tensor, Tensor, Sequence[int], torch.dtype], Rotation]


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenVLConfig:
    """What no single part owns."""

    image_token: int
    mrope_section: tuple[int, ...]


class Seen(NamedTuple):
    """The features of all images, and what the first layers of the decoder add to each (deepstack)."""

    features: Float[Tensor, "m d"]
    added: Sequence[Float[Tensor, "m d"]] = ()


class QwenVL(LanguageModel):
    """The parts that see, the decoder and its head. `seeing` are the former, by their roles."""

    def __init__(self, values: Values, turn: Turn, seeing: dict[str, nn.Module]) -> None:
        super().__init__()
        self.inputs = QwenVLInputs(values)
        self.config = fill(QwenVLConfig, values)
        self.turn = turn
        for role, part in seeing.items():
            self.add_module(role, part)
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    @abstractmethod
    def seen(self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "images 3"]) -> Seen:
        """What the model sees in the patches of all images."""

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        positions: Int[Tensor, "3 b n"],
        pixels: Float[Tensor, "p values"] | None = None,
        grids: Int[Tensor, "images 3"] | None = None,
    ) -> Stream:
        """The token embeddings, with the features of the images in their places."""
        seen = None if pixels is None or grids is None else self.seen(pixels, grids)
        where = (tokens == self.config.image_token) & valid
        x = filled(self.text.embed, tokens, where, None if seen is None else seen.features)
        added = None
        if seen is not None and seen.added:
            added = torch.stack([put(torch.zeros_like(x), where, one) for one in seen.added])
        return Stream(x, positions, Columns(valid, causal_blocks(valid), where.long()), added)

    def rotation(self, stream: Stream) -> Rotation:
        """The rotation of every token by its three positions."""
        frequency = self.text.frequencies(stream.x.device)
        return self.turn(stream.positions, frequency, self.config.mrope_section, stream.x.dtype)
