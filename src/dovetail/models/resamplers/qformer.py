"""PanoVLM's Q-Former: learned queries that look at the tokens through a small BERT.

    b  batch (images times views)    n  tokens    q  queries    h  heads    d  in_dim

BERT is set up as a decoder, so a query sees only the queries before it; it sees all tokens. BERT's word
table and pooler are in every checkpoint and never read: queries come as embeddings, and the states of all
of them go on.

Sources: wooseungw/panollava@ab73e9e `legacy/src_panovlm/models/resampler/resamplers.py:QFormerResampler`;
transformers@5.23.0 `modeling_bert.py`; arXiv:1810.04805, arXiv:2301.12597.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.models.attention import attend
from dovetail.models.layers import Embedding, LayerNorm, Linear

NORM_EPS = 1e-12  # BertConfig.layer_norm_eps


@dataclass(frozen=True, slots=True, kw_only=True)
class QFormerConfig:
    """The sizes of a Q-Former. `heads` shows in no shape."""

    in_dim: int
    out_dim: int
    queries: int
    layers: int
    heads: int
    d_ff: int
    vocab: int
    positions: int
    types: int


class Dense(nn.Module):
    """A projection, one level further down in the names."""

    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.dense = Linear(source, width)

    def forward(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b q f"]:
        return self.dense(x)


class Output(nn.Module):
    """A projection added to what it came from, then a norm."""

    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.dense = Linear(source, width)
        self.LayerNorm = LayerNorm(width, eps=NORM_EPS)

    def forward(self, y: Float[Tensor, "b q f"], x: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        return self.LayerNorm(self.dense(y) + x)


class Projections(nn.Module):
    """What is asked, what answers, and the answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)


class Attention(nn.Module):
    """Multi-head attention of `x` to `to`, with biases, around a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = Projections(width)
        self.output = Output(width, width)

    def forward(
        self, x: Float[Tensor, "b q d"], to: Float[Tensor, "b n d"], mask: Bool[Tensor, "1 1 q n"] | None
    ) -> Float[Tensor, "b q d"]:
        q, k, v = (
            rearrange(project(one), "b n (h c) -> b h n c", h=self.heads)
            for project, one in ((self.self.query, x), (self.self.key, to), (self.self.value, to))
        )
        return self.output(rearrange(attend(q, k, v, mask), "b h q c -> b q (h c)"), x)


class Layer(nn.Module):
    """Queries look at themselves, then at the tokens, then pass an MLP; a norm after each."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.attention = Attention(config.in_dim, config.heads)
        self.crossattention = Attention(config.in_dim, config.heads)
        self.intermediate = Dense(config.in_dim, config.d_ff)
        self.output = Output(config.d_ff, config.in_dim)

    def forward(
        self, x: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "1 1 q q"]
    ) -> Float[Tensor, "b q d"]:
        x = self.attention(x, x, mask)
        x = self.crossattention(x, tokens, None)
        return self.output(F.gelu(self.intermediate(x)), x)


class Embeddings(nn.Module):
    """Adds a position to each query, and the first type of token."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab, config.in_dim)  # stored, never read
        self.position_embeddings = Embedding(config.positions, config.in_dim)
        self.token_type_embeddings = Embedding(config.types, config.in_dim)
        self.LayerNorm = LayerNorm(config.in_dim, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        positions = self.position_embeddings.weight[: x.shape[1]]
        return self.LayerNorm(x + self.token_type_embeddings.weight[0] + positions)


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(
        self, x: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "1 1 q q"]
    ) -> Float[Tensor, "b q d"]:
        for layer in self.layer:
            x = layer(x, tokens, mask)
        return x


class Bert(nn.Module):
    """BERT as a decoder with cross-attention, from embeddings to the states of its last layer."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Dense(config.in_dim, config.in_dim)  # stored, never read

    def forward(self, x: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b q d"]:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()[None, None]
        return self.encoder(self.embeddings(x), tokens, causal)


class QFormer(nn.Module):
    """The resampler: as many tokens out as there are queries."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, config.queries, config.in_dim))
        self.bert = Bert(config)
        self.proj = Linear(config.in_dim, config.out_dim)

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b q out_dim"]:
        return self.proj(self.bert(self.query.expand(x.shape[0], -1, -1), x))
