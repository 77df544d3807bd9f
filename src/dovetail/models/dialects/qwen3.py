"""Qwen3's decoder: Llama's, with an RMSNorm over every head's query and key before they are turned.

The width of a head is its own number, not d_model / q_heads, and attention is scaled by it.

Sources: transformers@5.23.0 `modeling_qwen3.py:Qwen3Attention`; arXiv:2505.09388.
"""

from dovetail.models.decoder import Dialect
from dovetail.models.layers import Embedding, RMSNorm

QWEN3 = Dialect(embed=Embedding, norm=RMSNorm, head_norm=RMSNorm, qkv_bias=False)
