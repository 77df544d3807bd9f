"""Qwen2-VL: the features of its vision tower in the place of image tokens, before a Qwen2 decoder.

    p  patches of all images

The first section of a head's channels turns with time, the next with height, the last with width.

Sources: transformers@5.23.0 `modeling_qwen2_vl.py`; arXiv:2409.12191 sec. 2.1.
"""

from jaxtyping import Float, Int
from torch import Tensor

from dovetail.inputs.values import Values, fill
from dovetail.models.rotary import sectioned_rotation
from dovetail.models.towers.grids import Merger, MergerConfig
from dovetail.models.towers.qwen2_vit import Qwen2Vit, Qwen2VitConfig, qwen2_merger
from dovetail.models.vlm.qwen_vl import QwenVL, Seen


class Qwen2VL(QwenVL):
    """The tower, the merger, the decoder and its head."""

    vision: Qwen2Vit
    merger: Merger

    def __init__(self, values: Values) -> None:
        merger = fill(MergerConfig, values, "merger")
        vision = Qwen2Vit(fill(Qwen2VitConfig, values, "vision"), merger.edge)
        super().__init__(values, sectioned_rotation, {"vision": vision, "merger": qwen2_merger(merger)})

    def seen(self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "images 3"]) -> Seen:
        return Seen(self.merger(self.vision(patches, grids)))
