"""pi0.5: pi0 with the state in the text, and the time in every norm of the action expert.

    b  batch    t  action steps    a  action width    e  width of the expert    n  tokens

There is no state token: the tokenizer writes the state, in 256 steps, into the prompt. The time goes
through an MLP and sets scale, shift and gate of each norm and residual (adaRMS; arXiv:2212.09748 sec. 3.2).

Sources: arXiv:2504.16054; openpi@15a9616 `models_pytorch/{pi0_pytorch,gemma_pytorch}.py` and its
`transformers_replace/models/gemma/modeling_gemma.py:GemmaRMSNorm`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.inputs.values import Values, fill
from dovetail.models.attention import Past
from dovetail.models.blocks import Blocks
from dovetail.models.decoder import Attention, DecoderConfig, Mlp
from dovetail.models.dialects.gemma import GEMMA
from dovetail.models.layers import Linear, unit_rms
from dovetail.models.policies.policy import Policy, Suffix, blocks_of, time_embedding
from dovetail.models.rotary import Rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsConfig:
    """The sizes of what leads into and out of the expert. Periods are those of the time's sines."""

    d_expert: int
    d_action: int
    action_horizon: int
    min_period: float
    max_period: float


class Heads(nn.Module):
    """What makes the expert's tokens and their condition, and actions of them."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        e = config.d_expert
        self.action_in = Linear(config.d_action, e)
        self.time_in = Linear(e, e)
        self.time_out = Linear(e, e)
        self.action_out = Linear(e, config.d_action)

    def condition(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """What the norms are told of the time."""
        config = self.config
        time = time_embedding(
            t, config.d_expert, min_period=config.min_period, max_period=config.max_period
        ).to(self.time_in.weight.dtype)
        return F.silu(self.time_out(F.silu(self.time_in(time))))


class Modulation(NamedTuple):
    """What the time makes of a norm, and of the residual that follows."""

    scale: Float[Tensor, "b 1 e"]
    shift: Float[Tensor, "b 1 e"]
    gate: Float[Tensor, "b 1 e"]


class AdaNorm(nn.Module):
    """`unit_rms(x) * (1 + scale) + shift`, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.dense = Linear(width, 3 * width)

    def modulation(self, condition: Float[Tensor, "b e"]) -> Modulation:
        """Scale, shift and gate for a condition."""
        together = self.dense(condition.to(self.dense.weight.dtype))[:, None]
        return Modulation(*together.chunk(3, dim=-1))

    def forward(self, x: Float[Tensor, "b n e"], by: Modulation) -> Float[Tensor, "b n e"]:
        unit = unit_rms(x, self.eps)
        return (unit * (1 + by.scale.to(unit.dtype)) + by.shift.to(unit.dtype)).to(x.dtype)


class AdaBlock(nn.Module):
    """Gemma's block with norms that the time sets and residuals that it gates."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm1 = AdaNorm(config.d_model, config.norm_eps)
        self.attn = Attention(config, GEMMA)
        self.norm2 = AdaNorm(config.d_model, config.norm_eps)
        self.mlp = Mlp(config, GEMMA)

    def forward(
        self, x: Float[Tensor, "b n e"], by: Rotation, past: Past, condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b n e"]:
        first, second = self.norm1.modulation(condition), self.norm2.modulation(condition)
        x = x + first.gate.to(x.dtype) * self.attn(self.norm1(x, first), by, past)
        return x + second.gate.to(x.dtype) * self.mlp(self.norm2(x, second))


class AdaExpert(nn.Module):
    """Blocks and a last norm, all of which need a condition."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.blocks = Blocks({str(i): AdaBlock(config) for i in range(config.layers)})
        self.norm = AdaNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        y: Float[Tensor, "b s e"],
        by: Rotation,
        pasts: Sequence[Past],
        condition: Float[Tensor, "b e"] | None = None,
    ) -> Float[Tensor, "b s e"]:
        """The suffix after the last norm."""
        assert condition is not None
        for block, past in zip(self.blocks.values(), pasts, strict=True):
            y = block(y, by, past, condition)
        return self.norm(y, self.norm.modulation(condition))


class Pi05(Policy):
    """The policy."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.expert = AdaExpert(fill(DecoderConfig, values, "expert"))
        self.heads = Heads(fill(HeadsConfig, values, "heads"))

    @property
    def action_shape(self) -> tuple[int, int]:
        return self.heads.config.action_horizon, self.heads.config.d_action

    def suffix(
        self, state: Float[Tensor, "b _"] | None, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]
    ) -> Suffix:
        """The actions; the state is in the text and what is given here is not used."""
        flags = [1, *[0] * (x_t.shape[1] - 1)]
        x = self.heads.action_in(x_t.to(self.heads.action_in.weight.dtype)).to(self.vlm.table.dtype)
        return Suffix(x, blocks_of(flags, len(x_t), x_t.device), self.heads.condition(t))

    def action_out(self, y: Float[Tensor, "b t e"]) -> Float[Tensor, "b t a"]:
        return self.heads.action_out(y.to(self.heads.action_out.weight.dtype))
