"""pi0: PaliGemma and a Gemma action expert that attend as one; flow matching.

    b  batch    t  action steps    a  action width    e  width of the expert

    token of the suffix     made of                                        sees
    state                   its projection                                 prefix, itself
    t action steps          projected action and time, through an MLP      prefix, state, all actions

Sources: arXiv:2410.24164; openpi@15a9616 `models_pytorch/pi0_pytorch.py`; transformers@5.23.0
`modeling_pi0.py`, which has the time's sines in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.inputs.values import Values, fill
from dovetail.models.attention import Past
from dovetail.models.blocks import Blocks
from dovetail.models.decoder import Block, DecoderConfig
from dovetail.models.dialects.gemma import GEMMA
from dovetail.models.layers import Linear
from dovetail.models.policies.policy import Policy, Suffix, blocks_of, time_embedding
from dovetail.models.rotary import Rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsConfig:
    """The sizes of what leads into and out of the expert. Periods are those of the time's sines."""

    d_expert: int
    d_state: int
    d_action: int
    action_horizon: int
    min_period: float
    max_period: float


class Heads(nn.Module):
    """What makes the expert's tokens, and actions of them."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        e = config.d_expert
        self.state = Linear(config.d_state, e)
        self.action_in = Linear(config.d_action, e)
        self.time_in = Linear(2 * e, e)
        self.time_out = Linear(e, e)
        self.action_out = Linear(e, config.d_action)

    def forward(
        self, state: Float[Tensor, "b _"], x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b s e"]:
        dtype, config = self.state.weight.dtype, self.config
        time = time_embedding(
            t, config.d_expert, min_period=config.min_period, max_period=config.max_period
        ).to(dtype)
        actions = self.action_in(x_t.to(dtype))
        both = torch.cat([actions, time[:, None].expand_as(actions)], dim=-1)
        timed = self.time_out(F.silu(self.time_in(both)))
        return torch.cat([self.state(state.to(dtype))[:, None], timed], dim=1)


class Expert(nn.Module):
    """Gemma's blocks and last norm, without a token table: the decoder of the suffix."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.blocks = Blocks({str(i): Block(config, GEMMA) for i in range(config.layers)})
        self.norm = GEMMA.norm(config.d_model, config.norm_eps)

    def forward(
        self,
        y: Float[Tensor, "b s e"],
        by: Rotation,
        pasts: Sequence[Past],
        condition: Float[Tensor, "b e"] | None = None,
    ) -> Float[Tensor, "b s e"]:
        """The suffix after the last norm; no block is told more than its past."""
        assert condition is None
        for block, past in zip(self.blocks.values(), pasts, strict=True):
            y = block(y, by, past)
        return self.norm(y)


class Pi0(Policy):
    """The policy."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.expert = Expert(fill(DecoderConfig, values, "expert"))
        self.heads = Heads(fill(HeadsConfig, values, "heads"))

    @property
    def action_shape(self) -> tuple[int, int]:
        return self.heads.config.action_horizon, self.heads.config.d_action

    def suffix(
        self, state: Float[Tensor, "b _"] | None, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]
    ) -> Suffix:
        """The state, then the actions at their time."""
        assert state is not None
        flags = [1, 1, *[0] * (x_t.shape[1] - 1)]
        x = self.heads(state, x_t, t).to(self.vlm.table.dtype)
        return Suffix(x, blocks_of(flags, len(x_t), x_t.device))

    def action_out(self, y: Float[Tensor, "b t e"]) -> Float[Tensor, "b t a"]:
        return self.heads.action_out(y.to(self.heads.action_out.weight.dtype))
