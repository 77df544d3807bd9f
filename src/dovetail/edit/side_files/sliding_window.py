"""A decoder that looks at a window of the tokens before, in the words of LitGPT.

transformers and LitGPT both see the token itself and those before it, `sliding_window` in all.

Sources: transformers@5.23.0 `configuration_{qwen2,mistral}.py`, `masking_utils.py`; litgpt@0.5.13
`config.py`, `model.py:CausalSelfAttention.forward`.
"""

from collections.abc import Mapping
from typing import Any

from dovetail.report import Value

_SLIDING = "sliding_attention"


def to_litgpt(config: Mapping[str, Value], role: str, num_layers: int) -> dict[str, Any]:
    """The fields of a model_config.yaml, none where every layer sees everything."""

    def known(name: str) -> Any:
        value = config.get(f"{role}.{name}")
        return None if value is None else value.value

    used, size = known("use_sliding_window"), known("sliding_window")
    if used is False or not size:
        return {}
    kinds, first = known("layer_types"), known("max_window_layers") or 0
    if isinstance(kinds, list) and len(kinds) == num_layers:
        marks = [int(kind == _SLIDING) for kind in kinds]
    else:
        marks = [int(layer >= first) for layer in range(num_layers)]
    return {"sliding_window_size": size, "sliding_window_indices": marks} if any(marks) else {}
