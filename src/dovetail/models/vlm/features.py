"""From the states of a tower to features of the decoder's width, as LLaVA has them: which, and the projector.

    t  views    p  patches    v  channels of the states, joined    d  d_model

`vision_feature_layer` counts the states of a tower: 0 is what goes into the first block, 1 what comes out of
it, -1 what comes out of the last. Several of them are joined on their channels.

Source: transformers@5.23.0 `modeling_llava.py:LlavaModel.get_image_features`.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dovetail.errors import UsageError, listed
from dovetail.inputs.values import Values, fill
from dovetail.models.layers import Linear, activation


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorConfig:
    """The widths that the projector joins; it reads `levels` states side by side."""

    d_in: int
    levels: int
    d_out: int
    activation: str


class Projector(nn.Module):
    """Two linears and an activation."""

    def __init__(self, config: ProjectorConfig, *, bias: bool = True) -> None:
        super().__init__()
        self.levels = config.levels
        self.fc1 = Linear(config.levels * config.d_in, config.d_out, bias=bias)
        self.fc2 = Linear(config.d_out, config.d_out, bias=bias)
        self.act = activation(config.activation)

    def forward(self, x: Float[Tensor, "t p v"]) -> Float[Tensor, "t p d"]:
        return self.fc2(self.act(self.fc1(x)))


def build_projector(values: Values) -> Projector:
    """The projector of a checkpoint.

    Raises:
        UsageError: a value that it needs is not known.
    """
    bias = values.kind("projector") == "mlp2x_gelu"
    return Projector(fill(ProjectorConfig, values, "projector"), bias=bias)


def feature_layers(said: Any, depth: int, levels: int) -> tuple[int, ...]:
    """The states of a tower of so many blocks that a projector of so many levels reads, counted from 0.

    >>> feature_layers(-2, 24, 1), feature_layers([-2, 3], 24, 2)
    ((23,), (23, 3))

    Raises:
        UsageError: the tower has no such state, or the projector reads another number of them.
    """
    layers = said if isinstance(said, list | tuple) else [said]
    wrong = [layer for layer in layers if type(layer) is not int or not -depth - 1 <= layer <= depth]
    if wrong or not layers:
        raise UsageError(
            f"feature_layer cannot be {said!r}",
            expected=f"states of a tower of {depth} blocks: {-depth - 1} to {depth}",
            hint="give --set feature_layer=NUMBER, or several: --set feature_layer=[-2,-1]",
        )
    if len(layers) != levels:
        raise UsageError(
            f"features of {listed([str(layer) for layer in layers])} are {len(layers)}, "
            f"the projector joins {levels}",
            hint="the config lacks its vision_feature_layer: give --set feature_layer=[...]",
        )
    return tuple(layer % (depth + 1) for layer in layers)
