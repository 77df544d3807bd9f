"""SigLIP's pooling head: one vector for an image.

A learned query looks at all patches, then an MLP around a residual. Prismatic stores it and does not use
it; PaliGemma and pi0 leave it out.

Sources: arXiv:2303.15343; transformers@5.23.0 `modeling_siglip.py:SiglipMultiheadAttentionPoolingHead`;
timm@1.0.31 `layers/attention_pool.py`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.towers.vit import Mlp, mix


class Pool(nn.Module):
    """The head, for patches of any number."""

    def __init__(self, d: int, *, heads: int, d_ff: int, act: str, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, d))
        self.q, self.k, self.v, self.o = (Linear(d, d) for _ in range(4))
        self.norm = LayerNorm(d, eps=eps)
        self.mlp = Mlp(d, d_ff, act)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        query = self.q(self.latent).expand(x.shape[0], -1, -1)
        found = self.o(mix(query, self.k(x), self.v(x), self.heads))
        return (found + self.mlp(self.norm(found)))[:, 0]
