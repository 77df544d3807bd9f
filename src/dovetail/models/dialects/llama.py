"""Llama's decoder: nothing but the shared blocks; Llama 3.1 and later stretch the rotary frequencies.

Sources: transformers@5.23.0 `modeling_llama.py`; arXiv:2302.13971, arXiv:2407.21783.
"""

from torch import nn

from dovetail.models.decoder import Dialect
from dovetail.models.layers import Embedding, RMSNorm

LLAMA = Dialect(embed=Embedding, norm=RMSNorm, head_norm=nn.Identity, qkv_bias=False)
