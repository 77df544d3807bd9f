"""How far rotary positions reach beyond training, in the words of Hugging Face and of LitGPT.

Sources: transformers@5.23.0 `modeling_rope_utils.py`; litgpt@0.5.13 `model.py:GPT.rope_cache` and
`build_rope_cache`. Both compute the same angles for `linear` and `llama3`. For `yarn` they do not: LitGPT
0.5.13 interpolates the dimensions that Hugging Face extrapolates (measured, tests/edit/test_libraries.py);
`dynamic` and `longrope` it does not have.
"""

from collections.abc import Mapping
from typing import Any

from dovetail.errors import UsageError

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor")


def to_litgpt(scaling: Mapping[str, Any], max_positions: int) -> dict[str, Any]:
    """LitGPT's fields for Hugging Face's `rope_scaling` or `rope_parameters`, none where it scales nothing.

    Raises:
        UsageError: LitGPT cannot do this kind of scaling.
    """
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    reach = scaling.get("original_max_position_embeddings", max_positions)
    if kind in ("default", "mrope"):  # mrope differs for images only
        return {}
    if kind == "linear":
        return {"rope_adjustments": {"factor": scaling["factor"]}}
    if kind == "llama3":
        return {"rope_adjustments": {key: scaling[key] for key in _LLAMA3} | {"original_max_seq_len": reach}}
    raise UsageError(
        f"LitGPT does not compute rotary scaling of the kind `{kind}` as Hugging Face does",
        hint="choose another layout, or say --set text.rope_scaling={} if the model does without",
    )


def from_litgpt(adjustments: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's `rope_scaling` for LitGPT's `rope_adjustments`."""
    reach = {"original_max_position_embeddings": adjustments.get("original_max_seq_len")}
    if "low_freq_factor" in adjustments:
        return {"rope_type": "llama3", **{key: adjustments[key] for key in _LLAMA3}, **reach}
    if "beta_fast" in adjustments:
        raise UsageError(
            "LitGPT's yarn scaling is none that Hugging Face computes",
            hint="choose a layout of LitGPT, or say --set text.rope_scaling={...}",
        )
    return {"rope_type": "linear", "factor": adjustments["factor"]}
