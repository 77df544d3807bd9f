"""Qwen3-VL: features of several depths of its vision tower reach a Qwen3 decoder.

    b  batch    n  tokens    d  d_model    p  patches of all images    half  pairs of channels of a head

What the merger puts out takes the place of image tokens, as in Qwen2-VL; what the deepstack mergers put
out is added to those tokens after the first layers of the decoder, one after each (arXiv:2406.04334).

A head's channels are dealt to time, height and width in turn, so that each has high and low frequencies;
what is left in the end is time's:

    sections 4, 2, 2    t h w t h w t t

Sources: transformers@5.23.0 `modeling_qwen3_vl.py`; arXiv:2511.21631 sec. 2. transformers deals in turn
whatever a config's `mrope_interleaved` says; so do we.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.inputs.values import Values, fill
from dovetail.models.blocks import Blocks
from dovetail.models.rotary import Rotation, turned_by
from dovetail.models.towers.grids import Merger, MergerConfig
from dovetail.models.towers.qwen3_vit import Qwen3Vit, Qwen3VitConfig, deepstack_merger, qwen3_merger
from dovetail.models.vlm.qwen_vl import QwenVL, Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepstackConfig:
    """How many mergers there are besides the last, and behind which layer of the tower each stands."""

    levels: int
    vision_layers: tuple[int, ...]


def dealt(sections: Sequence[int]) -> list[int]:
    """The position (time, height, width) that each pair of channels turns with.

    >>> dealt([4, 2, 2])
    [0, 1, 2, 0, 1, 2, 0, 0]

    Raises:
        UsageError: height and width cannot have so many.
    """
    axes = [0] * sum(sections)
    for axis, section in enumerate(sections[1:], start=1):
        axes[axis : 3 * section : 3] = [axis] * len(axes[axis : 3 * section : 3])
    if [axes.count(axis) for axis in range(3)] != list(sections):
        raise UsageError(
            f"rotary sections {list(sections)} cannot be dealt in turn to time, height and width",
            hint="give --set mrope_section=T,H,W",
        )
    return axes


def interleaved_rotation(
    positions: Int[Tensor, "axes b n"],
    frequency: Float[Tensor, " half"],
    sections: Sequence[int],
    dtype: torch.dtype,
) -> Rotation:
    """The rotation of tokens with three positions each, the frequencies dealt to them in turn.

    Raises:
        UsageError: the sections cannot be dealt, or are not all of the frequencies.
    """
    if sum(sections) != frequency.shape[0]:
        raise UsageError(
            f"rotary sections {list(sections)} are not the {frequency.shape[0]} frequencies of a head",
            hint="give --set mrope_section=T,H,W",
        )
    axes = torch.tensor(dealt(sections), device=positions.device)
    return turned_by(rearrange(positions[axes], "half b n -> b n half").float() * frequency, dtype)


class Qwen3VL(QwenVL):
    """The tower, its mergers, the decoder and its head."""

    vision: Qwen3Vit
    merger: Merger
    deepstack: Blocks

    def __init__(self, values: Values) -> None:
        merger = fill(MergerConfig, values, "merger")
        inside, inner = fill(DeepstackConfig, values, "deepstack"), fill(MergerConfig, values, "deepstack")
        if len(inside.vision_layers) != inside.levels:
            raise UsageError(
                f"{inside.levels} mergers cannot stand behind the layers {list(inside.vision_layers)}",
                hint="give --set deepstack.vision_layers=A,B,C",
            )
        seeing = {
            "vision": Qwen3Vit(fill(Qwen3VitConfig, values, "vision"), merger.edge, inside.vision_layers),
            "merger": qwen3_merger(merger),
            "deepstack": Blocks({str(i): deepstack_merger(inner) for i in range(inside.levels)}),
        }
        super().__init__(values, interleaved_rotation, seeing)
        for level in range(self.text.config.layers, inside.levels):
            self.unreached[f"deepstack.{level}.*"] = "the decoder has no layer to add it after"

    def seen(self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "images 3"]) -> Seen:
        last, inner = self.vision(patches, grids)
        mergers = self.deepstack.values()
        return Seen(self.merger(last), [merge(x) for merge, x in zip(mergers, inner, strict=True)])
