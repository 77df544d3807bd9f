"""The Q-Former equals transformers' BERT, set up as PanoVLM does."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from dovetail.models.resamplers.qformer import QFormer, QFormerConfig
from models.oracles import randomised, tokens

pytestmark = pytest.mark.filterwarnings("ignore")


class Original(torch.nn.Module):
    """BERT as a decoder with cross-attention, learned queries and a projection."""

    def __init__(self, width: int, out: int, *, queries: int, layers: int, heads: int, ffn: int) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=ffn,
            vocab_size=31,
            max_position_embeddings=17,
            attn_implementation="eager",
        )
        config.is_decoder = True
        config.add_cross_attention = True
        self.query = torch.nn.Parameter(torch.empty(1, queries, width))
        self.bert = BertModel(config)
        self.proj = torch.nn.Linear(width, out)

    def forward(self, x: torch.Tensor) -> Any:
        seen = torch.ones(x.shape[:2], dtype=x.dtype)
        found = self.bert(
            inputs_embeds=self.query.expand(len(x), -1, -1),
            encoder_hidden_states=x,
            encoder_attention_mask=seen,
        )
        return self.proj(found.last_hidden_state)


@pytest.mark.parametrize(
    ("width", "out", "queries", "layers", "heads", "ffn"),
    [(24, 10, 6, 2, 8, 96), (15, 15, 1, 3, 5, 33), (28, 7, 17, 1, 7, 50)],
)
def test_bert(width: int, out: int, queries: int, layers: int, heads: int, ffn: int) -> None:
    original = randomised(Original(width, out, queries=queries, layers=layers, heads=heads, ffn=ffn))
    original = original.float()
    mine = QFormer(
        QFormerConfig(
            in_dim=width,
            out_dim=out,
            queries=queries,
            layers=layers,
            heads=heads,
            d_ff=ffn,
            vocab=31,
            positions=17,
            types=2,
        )
    )
    mine.load_state_dict(original.state_dict())
    for length in (1, 9):
        x = tokens(3, length, width, dtype=torch.float32)
        with torch.no_grad():
            np.testing.assert_allclose(mine(x), original(x), atol=1e-5, rtol=0)
