"""The text models by themselves: Llama, Mistral, SmolLM3, Qwen2 (and 2.5), Qwen3, Gemma.

Sources: see `decoder.py`.
"""

from dovetail.declare.family import LITGPT, ConfigKeys, Family, Layout, Mount, layout, scoped
from dovetail.declare.part import Part
from dovetail.families.decoder import (
    GEMMA,
    GEMMA_SIZES,
    HEAD,
    LLAMA,
    LLAMA_SIZES,
    MINISTRAL,
    MISTRAL,
    MISTRAL_SIZES,
    QWEN2,
    QWEN2_SIZES,
    QWEN3,
    QWEN3_SIZES,
    SMOLLM3,
    SMOLLM3_SIZES,
)
from dovetail.families.history import hub_readers


def hf_layouts(since: str) -> tuple[Layout, ...]:
    """Where transformers puts a text model; `since` is the first version that has it, of those measured."""
    return (
        layout(
            "hf",
            {"text": "model.", "head": "lm_head."},
            note="the hub; transformers, all versions",
            readers=hub_readers(since),
        ),
        layout(
            "hf-base", {"text": ""}, note="the bare model that transformers saves (`Qwen2Model`): no head"
        ),
    )


LITGPT_LAYOUTS = (
    layout(
        "litgpt",
        {"text": Mount("transformer.", "litgpt"), "head": "lm_head."},
        stores_ties=True,
        container=LITGPT,
        note="LitGPT >= 0.5: attn.qkv = q | k | v",
        readers=("litgpt>=0.5,<1",),
    ),
    layout(
        "litgpt-legacy",
        {"text": Mount("transformer.", "litgpt-legacy"), "head": "lm_head."},
        stores_ties=True,
        container=LITGPT,
        note="LitGPT < 0.5 and MDI-LLM: attn.attn interleaves q, k, v by kv group",
        untried=("litgpt<0.5",),
    ),
)


# Sizes that were published with tie_word_embeddings = true; the others have a head of their own.
TIED = {
    *("qwen2-0.5b", "qwen2-1.5b", "qwen2.5-3b", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"),
    *("llama3.2-1b", "llama3.2-3b", "gemma_2b", "gemma-2b", "gemma-7b", "smollm3-3b"),
}


def _family(
    id: str,
    title: str,
    *parts: Part,
    sizes: dict[str, dict[str, int]],
    named_by: tuple[str, str] | None = None,
    since: str = "4.45",
    litgpt: tuple[Layout, ...] = LITGPT_LAYOUTS,
) -> Family:
    return Family(
        id=id,
        title=title,
        parts={"text": parts, "head": (HEAD,)},
        tied_heads={"head": "text"},
        is_component=True,
        layouts=(*hf_layouts(since), *litgpt),
        config=ConfigKeys(
            model_types=tuple(part.id for part in parts),
            roots={"text": ("", "text_config"), "head": ("", "text_config")},
            architecture=f"{title.split(maxsplit=1)[0]}ForCausalLM",
            named_by=named_by,
            constants={"model_type": lambda plan: plan.kinds["text"].id},
        ),
        sizes={
            name: {**scoped("text", size), **({} if name in TIED else {"head": "head"})}
            for name, size in sizes.items()
        },
        model="dovetail.models.text:TextModel",
        inputs="dovetail.inputs.text:TextInputs",
        sources=(f"transformers@5.23.0 modeling_{id}.py", "litgpt@26857050 convert_hf_checkpoint.py"),
    )


# The class of the MLP tells Gemma from Llama in a LitGPT config (litgpt@0.5.13 `litgpt/config.py`).
LLAMA_FAMILY = _family("llama", "Llama", LLAMA, sizes=LLAMA_SIZES, named_by=("mlp_class_name", "LLaMAMLP"))
MISTRAL_FAMILY = _family(
    "mistral", "Mistral / Ministral / Devstral", MISTRAL, MINISTRAL, sizes=MISTRAL_SIZES, since="4.57"
)
# LitGPT has no layers without positions.
SMOLLM3_FAMILY = _family("smollm3", "SmolLM3", SMOLLM3, sizes=SMOLLM3_SIZES, since="4.57", litgpt=())
QWEN2_FAMILY = _family("qwen2", "Qwen2 / Qwen2.5", QWEN2, sizes=QWEN2_SIZES)
QWEN3_FAMILY = _family("qwen3", "Qwen3", QWEN3, sizes=QWEN3_SIZES, since="4.57")
GEMMA_FAMILY = _family("gemma", "Gemma", GEMMA, sizes=GEMMA_SIZES, named_by=("mlp_class_name", "GemmaMLP"))
