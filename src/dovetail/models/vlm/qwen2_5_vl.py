"""Qwen2.5-VL: Qwen2-VL with a vision tower that looks through windows.

    p  patches of all images

With images it differs from Qwen2-VL in nothing but the tower. (With videos, which are not written here, it
would in positions too: their time runs by `tokens_per_second`.)

Sources: transformers@5.23.0 `modeling_qwen2_5_vl.py`; arXiv:2502.13923 sec. 2.1.
"""

from jaxtyping import Float, Int
from torch import Tensor

from dovetail.inputs.values import Values, fill
from dovetail.models.rotary import sectioned_rotation
from dovetail.models.towers.grids import Merger, MergerConfig
from dovetail.models.towers.qwen2_5_vit import Qwen25Vit, Qwen25VitConfig, qwen25_merger
from dovetail.models.vlm.qwen_vl import QwenVL, Seen


class Qwen25VL(QwenVL):
    """The tower, the merger, the decoder and its head."""

    vision: Qwen25Vit
    merger: Merger

    def __init__(self, values: Values) -> None:
        merger = fill(MergerConfig, values, "merger")
        vision = Qwen25Vit(fill(Qwen25VitConfig, values, "vision"), merger.edge)
        super().__init__(values, sectioned_rotation, {"vision": vision, "merger": qwen25_merger(merger)})

    def seen(self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "images 3"]) -> Seen:
        return Seen(self.merger(self.vision(patches, grids)))
