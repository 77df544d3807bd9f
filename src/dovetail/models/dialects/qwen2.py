"""Qwen2's decoder: Llama's, with biases on queries, keys and values (and none on the output).

Sources: transformers@5.23.0 `modeling_qwen2.py`; arXiv:2407.10671.
"""

from torch import nn

from dovetail.models.decoder import Dialect
from dovetail.models.layers import Embedding, RMSNorm

QWEN2 = Dialect(embed=Embedding, norm=RMSNorm, head_norm=nn.Identity, qkv_bias=True)
