"""The pre-norm decoder of Llama, Qwen2, Qwen3 and Gemma: grouped-query attention and a gated MLP.

    b  batch    n  tokens    d  d_model    h  query heads    g  key and value heads    c  head_dim

What the four do differently is a Dialect, in the file of each: `llama.py`, `qwen2.py`, `qwen3.py`,
`gemma.py`. The names of the parameters are those that `families/decoder.py` declares.

Sources: transformers@5.23.0 `modeling_{llama,qwen2,qwen3,gemma}.py`; arXiv:2307.09288 (Llama 2),
arXiv:2305.13245 (grouped queries), arXiv:2002.05202 (gated MLP).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.models.attention import Past
from dovetail.models.blocks import Blocks
from dovetail.models.layers import Activation, Adaptable, Linear, activation
from dovetail.models.products import Product
from dovetail.models.rotary import Rotation, frequencies, rotate, rotation, scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The sizes and settings of a decoder, by the names of its declaration.

    `windows` are the tokens that each layer looks at, 0 for all of them, empty where no layer has a window.
    `unrotated` are the layers without positions (NoPE, arXiv:2305.19466). `attention_bias` and `mlp_bias`
    are biases that a dialect does not have by itself.
    """

    layers: int
    d_model: int
    q_heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    rope_theta: float
    rope_scaling: Mapping[str, Any]
    norm_eps: float
    activation: str
    windows: tuple[int, ...] = ()
    unrotated: frozenset[int] = frozenset()
    attention_bias: bool = False
    mlp_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What decoders do differently. Norms are made from a width and the config's `norm_eps`."""

    embed: Callable[[int, int], nn.Module]
    norm: Callable[[int, float], nn.Module]
    head_norm: Callable[[int, float], nn.Module]
    qkv_bias: bool
    activation: Callable[[str], Activation] = activation


def divided(
    product: Product | None, x: Float[Tensor, "b n d"], layers: Sequence[Adaptable]
) -> tuple[Tensor, ...]:
    """What each of some layers with the same input gives, by one product of them all if there is one."""
    if product is None:
        return tuple(layer(x) for layer in layers)
    return torch.split(product(x), [layer.out_features for layer in layers], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    product: Product | None = None

    def __init__(self, config: DecoderConfig, dialect: Dialect) -> None:
        super().__init__()
        d, c, bias = config.d_model, config.head_dim, dialect.qkv_bias or config.attention_bias
        self.head_dim = c
        self.q = Linear(d, config.q_heads * c, bias=bias)
        self.k = Linear(d, config.kv_heads * c, bias=bias)
        self.v = Linear(d, config.kv_heads * c, bias=bias)
        self.q_norm = dialect.head_norm(c, config.norm_eps)
        self.k_norm = dialect.head_norm(c, config.norm_eps)
        self.o = Linear(config.q_heads * c, d, bias=config.attention_bias)

    def qkv(
        self, x: Float[Tensor, "b n d"], by: Rotation | None
    ) -> tuple[Float[Tensor, "b h n c"], Float[Tensor, "b g n c"], Float[Tensor, "b g n c"]]:
        """Queries and keys, turned to their positions if they are, and values."""
        q, k, v = (rearrange(one, "b n (h c) -> b h n c", c=self.head_dim) for one in self.project(x))
        q, k = self.q_norm(q), self.k_norm(k)
        return (q, k, v) if by is None else (rotate(q, by), rotate(k, by), v)

    @property
    def joined(self) -> tuple[Adaptable, ...]:
        """The layers that have the same input; `product` computes them at once (`kernels.py`)."""
        return self.q, self.k, self.v

    def project(
        self, x: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n hc"], Float[Tensor, "b n gc"], Float[Tensor, "b n gc"]]:
        """Queries, keys and values before they are turned."""
        q, k, v = divided(self.product, x, self.joined)
        return q, k, v

    def out(self, y: Float[Tensor, "b h n c"]) -> Float[Tensor, "b n d"]:
        """What the heads found, put together."""
        return self.o(rearrange(y, "b h n c -> b n (h c)"))

    def forward(self, x: Float[Tensor, "b n d"], by: Rotation | None, past: Past) -> Float[Tensor, "b n d"]:
        return self.out(past.attend(*self.qkv(x, by)))


class Mlp(nn.Module):
    """The gated MLP: `down(act(gate(x)) * up(x))`."""

    product: Product | None = None

    def __init__(self, config: DecoderConfig, dialect: Dialect) -> None:
        super().__init__()
        self.gate = Linear(config.d_model, config.d_ff, bias=config.mlp_bias)
        self.up = Linear(config.d_model, config.d_ff, bias=config.mlp_bias)
        self.down = Linear(config.d_ff, config.d_model, bias=config.mlp_bias)
        self.act = dialect.activation(config.activation)

    @property
    def joined(self) -> tuple[Adaptable, ...]:
        """The layers that have the same input; `product` computes them at once (`kernels.py`)."""
        return self.gate, self.up

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate, up = divided(self.product, x, self.joined)
        return self.down(self.act(gate) * up)


class Block(nn.Module):
    """One layer: attention and MLP, each after its norm and around a residual."""

    def __init__(self, config: DecoderConfig, dialect: Dialect) -> None:
        super().__init__()
        self.norm1 = dialect.norm(config.d_model, config.norm_eps)
        self.attn = Attention(config, dialect)
        self.norm2 = dialect.norm(config.d_model, config.norm_eps)
        self.mlp = Mlp(config, dialect)

    def forward(self, x: Float[Tensor, "b n d"], by: Rotation | None, past: Past) -> Float[Tensor, "b n d"]:
        x = x + self.attn(self.norm1(x), by, past)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A stack of blocks between the token table and the last norm."""

    def __init__(self, config: DecoderConfig, dialect: Dialect) -> None:
        super().__init__()
        self.config = config
        self.layers = range(config.layers)
        self.embed = dialect.embed(config.vocab, config.d_model)
        self.blocks = Blocks({str(i): Block(config, dialect) for i in range(config.layers)})
        self.norm = dialect.norm(config.d_model, config.norm_eps)

    def keep(self, layers: range) -> None:
        """Makes this one stage of a pipeline: these blocks, under their own numbers.

        The table stays only in the first stage, the last norm only in the last: elsewhere both pass on
        what they get.

        Raises:
            UsageError: there are no such layers.
        """
        if not layers or layers.step != 1 or layers.start < 0 or layers.stop > self.config.layers:
            raise UsageError(
                f"layers {layers.start} to {layers.stop - 1} are no stage of {self.config.layers} layers",
                hint="give a range within the layers",
            )
        self.layers = layers
        self.blocks = Blocks({str(i): self.blocks[str(i)] for i in layers})
        if layers.start > 0:
            self.embed = nn.Identity()
        if layers.stop < self.config.layers:
            self.norm = nn.Identity()

    @property
    def table(self) -> Float[Tensor, "v d"]:
        """The token table, which is the head as well where there is none."""
        return self.embed.get_parameter("weight")

    def rotation(self, positions: Int[Tensor, "b n"], dtype: torch.dtype) -> Rotation:
        """The rotation of tokens at these positions."""
        return rotation(positions, self.frequencies(positions.device), dtype)

    def frequencies(self, device: torch.device) -> Float[Tensor, " half"]:
        """The rotary frequencies, scaled as the config says."""
        plain = frequencies(self.config.head_dim, self.config.rope_theta, device=device)
        return scaled(plain, self.config.rope_scaling)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        by: Rotation,
        pasts: Sequence[Past],
        added: Float[Tensor, "layers b n d"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The hidden states, after the last norm if it is here.

        There is a past for each block. `added` has what the first layers of the whole decoder add to what
        they put out.
        """
        for (name, block), past in zip(self.blocks.items(), pasts, strict=True):
            x = block(x, None if int(name) in self.config.unrotated else by, past)
            if added is not None and int(name) < len(added):
                x = x + added[int(name)]
        return self.norm(x)
