"""What can be seen of a model that no family explains: layers, experts, fused matrices, kinds of attention.

Names and shapes only, as transformers, Megatron, LLaMA-like and GPT-like code bases spell them. A trait says
what is there and never which model it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from dovetail.explain.name_groups import Group, Inventory
from dovetail.report import counted

_EXPERTS = re.compile(r"^(?P<above>.*\.)?(?:\w*experts|\w*moe)\.\*\.")
_STACKED = re.compile(
    r"(?:^|\.)(?:\w*experts|block_sparse_moe)\.(?:\w*(?:gate|up|down|w1|w2|w3|wi|wo|v1|input|output)\w*)(?:\.weight)?$"
)
_ROUTER = re.compile(
    r"(?:^|\.)(?:router(?:\.layer)?|(?:mlp|block_sparse_moe|feed_forward|moe)\.gate)\.weight$"
)
_LATENT = re.compile(r"\.(kv_a_proj_with_mqa|kv_a_layernorm|kv_b_proj)\.")
# what a name has in it -> what that is; the first name is quoted
_TRAITS = (
    (
        re.compile(
            r"\.(qkv_proj|qkv|w?qkv|Wqkv|query_key_value|c_attn|att_proj|W_pack|\w+_query_key_value)\."
        ),
        "q, k and v in one matrix",
    ),
    (
        re.compile(r"\.(gate_up_proj|gate_up|dense_h_to_4h_swiglu|gate_proj_and_up_proj)(\.|$)"),
        "gate and up in one matrix",
    ),
    (re.compile(r"\.A_log$"), "state-space layers (Mamba)"),
    (
        re.compile(r"\.(cross_attn|crossattention|cross_attention|EncDecAttention|encoder_attn)\."),
        "cross-attention",
    ),
    (
        re.compile(
            r"\.(q_norm|k_norm|query_layernorm|key_layernorm|q_layernorm|k_layernorm|norm_q|norm_k)\."
        ),
        "norms on q and k",
    ),
    (
        re.compile(
            r"\.(post_feedforward_layernorm|post_mlp_layernorm|post_self_attn_layernorm|post_ffn_norm)\."
        ),
        "norms behind attention or MLP",
    ),
    (re.compile(r"\.(sinks)$"), "attention sinks"),
    (re.compile(r"\.(wpe|embed_positions|relative_attention_bias)\."), "learned positions"),
    (re.compile(r"\.(q_proj|k_proj|v_proj|o_proj|out_proj|dense)\.bias$"), "biases in the attention"),
)


def traits(inventory: Inventory) -> list[str]:
    """What can be seen, in words: `3 layers under `model.layers``, `a mixture of 8 experts`."""
    groups = inventory.groups
    return [*_stacks(groups), *_experts(inventory), *_others(groups)]


def _stacks(groups: Mapping[str, Group]) -> Iterator[str]:
    """The stacks of layers, the largest first. What has two or three kinds of tensors is no layer."""
    stacks: dict[str, list[set[int]]] = {}
    for key, group in groups.items():
        head, found, _ = key.partition(".*.")
        if found and not head.endswith("experts"):
            stacks.setdefault(head, []).append({index[0] for index in group.indices})
    sizes = {head: len(set().union(*rows)) for head, rows in stacks.items() if len(rows) > 3}
    for head in sorted(sizes, key=lambda head: -sizes[head])[:3]:
        yield f"{counted(sizes[head], 'layer')} under `{head}`"


def _experts(inventory: Inventory) -> Iterator[str]:
    groups = inventory.groups
    counts = {_num_indexed(key, group) for key, group in groups.items() if _EXPERTS.match(key)}
    stacked = [group.names[0] for key, group in groups.items() if _STACKED.search(key)]
    shapes = [entry.shape for name in stacked if (entry := inventory.entries.get(name))]
    counts |= {shape[0] for shape in shapes if shape is not None and len(shape) == 3}
    if counts:
        yield f"a mixture of {max(counts):,} experts"
    elif stacked or any(_ROUTER.search(key) for key in groups):
        yield "a mixture of experts"
    if any(".shared_expert" in key for key in groups):
        yield "shared experts"


def _num_indexed(key: str, group: Group) -> int:
    """How many experts a group names: different numbers where `experts.*` has its star."""
    match = _EXPERTS.match(key)
    assert match is not None
    position = (match["above"] or "").count("*")
    return len({index[position] for index in group.indices})


def _others(groups: Iterable[str]) -> Iterator[str]:
    names = list(groups)
    if any(_LATENT.search(name) for name in names):
        yield "multi-head latent attention (MLA)"
    for pattern, words in _TRAITS:
        if first := next((match for name in names if (match := pattern.search(name))), None):
            yield f"{words} (`{first[1]}`)" if first.lastindex else words
