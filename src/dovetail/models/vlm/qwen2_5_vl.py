"""Qwen2.5-VL: Qwen2-VL with a vision tower that looks through windows.

    p  patches of all images

Images differ from Qwen2-VL's in nothing but the tower. (The positions of a video would: its time runs in
seconds, `tokens_per_second` of them.)

Sources: transformers@5.23.0 `modeling_qwen2_5_vl.py`; arXiv:2502.13923 sec. 2.1.
"""

from jaxtyping import Float, Int
from torch import Tensor

from dovetail.inputs.qwen2_vl import Qwen2VLInputs
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
        seeing = {
            "vision": Qwen25Vit(fill(Qwen25VitConfig, values, "vision"), merger.edge),
            "merger": qwen25_merger(merger),
        }
        super().__init__(values, Qwen2VLInputs(values), sectioned_rotation, seeing)

    def seen(self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "images 3"]) -> Seen:
        return Seen(self.merger(self.vision(patches, grids)))
