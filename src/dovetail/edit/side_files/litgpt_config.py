"""LitGPT's `model_config.yaml`: the decoder as LitGPT's `Config` wants to have it.

Source: litgpt@0.5.13 `litgpt/config.py` (fields and defaults), `litgpt/utils.py:save_config`.
"""

import re
from collections.abc import Mapping
from typing import Any

from dovetail.declare.blueprint import Blueprint
from dovetail.declare.part import Part
from dovetail.edit.side_files import sliding_window
from dovetail.edit.side_files.rope_scaling import to_litgpt
from dovetail.errors import UsageError, listed
from dovetail.families.decoder import ATTENTION, MLP
from dovetail.report import Value


def decoder_of(kinds: Mapping[str, Part]) -> str | None:
    """The role of the language model: the only decoder there is, None if there are several or none."""
    roles = [role for role, part in kinds.items() if part.purpose == "decoder"]
    return roles[0] if len(roles) == 1 else None


def _biases(plan: Blueprint, role: str) -> dict[str, bool]:
    """LitGPT's `bias`, which stands for those of attention and MLP at once.

    Raises:
        UsageError: the model has only some of them.
    """
    could_have, has = plan.kinds[role].facts.flags.values(), plan.features.get(role, ())
    lacks = [key for key in (ATTENTION, MLP) if key not in has]
    if not has or not could_have:
        return {}
    if lacks:
        raise UsageError(
            f"LitGPT has biases in attention and MLP or in neither, and {role} has no {listed(lacks)}",
            expected=" and ".join((ATTENTION, MLP)),
            found=listed(has),
            hint="choose another layout: LitGPT cannot build this model",
        )
    return {"bias": True}


def litgpt_config(plan: Blueprint, config: Mapping[str, Value], name: str) -> str:
    """The text of the file for the part that is a decoder.

    `padded_vocab_size` is the number of rows, `vocab_size` the number of tokens where a config says it.
    What a fork of LitGPT wants to know of other parts is added where they are there.

    Raises:
        UsageError: LitGPT cannot compute what the config says.
    """
    import yaml

    role = decoder_of(plan.kinds)
    assert role is not None, "a layout of LitGPT without a decoder"
    dims, special = plan.dims(role), {**plan.kinds[role].facts.litgpt, **_biases(plan, role)}
    word = str(special.pop("name", ""))

    def said(key: str, default: Any) -> Any:
        value = config.get(f"{role}.{key}")
        return default if value is None or value.value is None else value.value

    values: dict[str, Any] = {
        "name": re.sub(re.escape(word), word, name, flags=re.IGNORECASE),
        "hf_config": {},
        "block_size": said("max_positions", None),
        "vocab_size": said("vocab_used", dims["vocab"]),
        "padded_vocab_size": dims["vocab"],
        "n_layer": dims["layers"],
        "n_head": dims["q_heads"],
        "n_query_groups": dims["kv_heads"],
        "head_size": dims["head_dim"],
        "n_embd": dims["d_model"],
        "intermediate_size": dims["d_ff"],
        "rotary_percentage": 1.0,
        "rope_base": int(said("rope_theta", 10_000)),
        "parallel_residual": False,
        "bias": False,
        "attn_bias": False,
        "norm_class_name": "RMSNorm",
        "norm_eps": said("norm_eps", 1e-6),
        "norm_qk": False,
        "mlp_class_name": "LLaMAMLP",
        "scale_embeddings": False,
        **special,
    }
    values |= to_litgpt(said("rope_scaling", {}), values["block_size"])
    values |= sliding_window.to_litgpt(config, role, dims["layers"])
    if plan.family.config.litgpt is not None and len(plan.kinds) > len({role, *plan.family.ties}):
        values |= plan.family.config.litgpt(plan, {name: value.value for name, value in config.items()})
    return yaml.safe_dump(values, sort_keys=False)
