"""What PanoVLM puts between its tower and its projector, one file a kind.

A kind is what the declaration calls it, without the depth that is part of the names of some.
"""

from typing import Any

from torch import nn

from dovetail.inputs.resampled import resampler_kind
from dovetail.inputs.values import Values, fill
from dovetail.models.resamplers.bimamba import BiMamba, BiMambaConfig
from dovetail.models.resamplers.c_abstractor import CAbstractor, CAbstractorConfig
from dovetail.models.resamplers.conv import Conv, ConvConfig
from dovetail.models.resamplers.mlp import Mlp, MlpConfig
from dovetail.models.resamplers.perceiver import Perceiver, PerceiverConfig
from dovetail.models.resamplers.pools import ConvPool, ConvPoolConfig, Pool, PoolConfig
from dovetail.models.resamplers.qformer import QFormer, QFormerConfig

RESAMPLERS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "bimamba": (BiMamba, BiMambaConfig),
    "c_abstractor": (CAbstractor, CAbstractorConfig),
    "conv": (Conv, ConvConfig),
    "identity_or_avg": (Pool, PoolConfig),
    "mlp": (Mlp, MlpConfig),
    "perceiver": (Perceiver, PerceiverConfig),
    "qformer": (QFormer, QFormerConfig),
    "spatial_pool_conv": (ConvPool, ConvPoolConfig),
    "spatial_pool_or_masked_drop": (Pool, PoolConfig),
}


def build_resampler(values: Values, role: str = "resampler") -> nn.Module:
    """The resampler that fills a role.

    Raises:
        UsageError: the role is not there, or a value that it needs is not known.
    """
    module, config = RESAMPLERS[resampler_kind(values, role)]
    part = values.kinds[role]
    more = dict(part.facts.constants)
    if part.id == "identity_or_avg":
        more |= {"depth": 0, "use_ln": False}
    if "depth" in more and "hidden_dim" not in part.dims:
        more["hidden_dim"] = 0  # one linear, or none: nothing is hidden
    return module(fill(config, values, role, **more))
