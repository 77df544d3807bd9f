"""The text decoder of Llama, Mistral, SmolLM3, Qwen2, Qwen3 and Gemma, and the head that follows it.

Pre-norm blocks of grouped-query attention and a gated MLP. What differs between them is which leaves
exist: Qwen2 has q/k/v biases, Qwen3 a norm per head on q and k. Llama, SmolLM3, Qwen3 and Gemma may have
biases all over attention, the first two in the MLP as well (`attention_bias`, `mlp_bias` of their configs).
Llama, Mistral, SmolLM3 and Gemma have the same leaves and the same shapes: names and shapes cannot tell
them apart, a config can.

Sources: transformers@5.23.0 `modeling_{llama,mistral,ministral,smollm3,qwen2,qwen3,gemma}.py`; litgpt@26857050
`litgpt/{config,model}.py`, `scripts/convert_hf_checkpoint.py`; MDI-LLM@d647b97 `src/sub/` for the names
of older LitGPT, whose `attn.attn` interleaves q, k and v by kv group; a fork of MDI-LLM for `c_proj`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings

_NONE: Mapping[str, Any] = MappingProxyType({})

LEAVES = """
embed.weight                                vocab d_model                                     if embed
blocks.{layer}.norm1.weight                 d_model                                           if norm
blocks.{layer}.norm1.dense.(weight|bias)    (3 d_model) d_cond | (3 d_model)                  if ada_norm
blocks.{layer}.attn.q.weight                (q_heads head_dim) d_model
blocks.{layer}.attn.(k|v).weight            (kv_heads head_dim) d_model
blocks.{layer}.attn.q.bias                  (q_heads head_dim)                                if qkv_bias
blocks.{layer}.attn.(k|v).bias              (kv_heads head_dim)                               if qkv_bias
blocks.{layer}.attn.(q_norm|k_norm).weight  head_dim                                          if qk_norm
blocks.{layer}.attn.o.weight                d_model (q_heads head_dim)
blocks.{layer}.attn.o.bias                  d_model                                           if o_bias
blocks.{layer}.norm2.weight                 d_model                                           if norm
blocks.{layer}.norm2.dense.(weight|bias)    (3 d_model) d_cond | (3 d_model)                  if ada_norm
blocks.{layer}.mlp.(gate|up).weight         d_ff d_model
blocks.{layer}.mlp.(gate|up).bias           d_ff                                              if mlp_bias
blocks.{layer}.mlp.down.weight              d_model d_ff
blocks.{layer}.mlp.down.bias                d_model                                           if mlp_bias
norm.weight                                 d_model                                           if norm
norm.dense.(weight|bias)                    (3 d_model) d_cond | (3 d_model)                  if ada_norm
unused_head.weight                          vocab d_model                                     dead
"""

HF = Naming("""
embed.weight                                embed_tokens.weight
blocks.{layer}.norm1.weight                 layers.{layer}.input_layernorm.weight
blocks.{layer}.norm1.dense.(weight|bias)    layers.{layer}.input_layernorm.dense.(weight|bias)
blocks.{layer}.attn.(q|k|v|o).(weight|bias)  layers.{layer}.self_attn.(q_proj|k_proj|v_proj|o_proj).(weight|bias)
blocks.{layer}.attn.(q_norm|k_norm).weight  layers.{layer}.self_attn.(q_norm|k_norm).weight
blocks.{layer}.norm2.weight                 layers.{layer}.post_attention_layernorm.weight
blocks.{layer}.norm2.dense.(weight|bias)    layers.{layer}.post_attention_layernorm.dense.(weight|bias)
blocks.{layer}.mlp.(gate|up|down).(weight|bias)  layers.{layer}.mlp.(gate_proj|up_proj|down_proj).(weight|bias)
norm.weight                                 norm.weight
norm.dense.(weight|bias)                    norm.dense.(weight|bias)
unused_head.weight                          unused_head.weight
-                                           layers.{layer}.self_attn.rotary_emb.inv_freq          buffer
-                                           rotary_emb.inv_freq                                   buffer
""")

_LITGPT_BODY = """
embed.weight                                wte.weight
blocks.{layer}.norm1.weight                 h.{layer}.norm_1.weight
blocks.{layer}.attn.(q_norm|k_norm).weight  h.{layer}.attn.(norm_q|norm_k).weight
blocks.{layer}.attn.o.(weight|bias)         h.{layer}.attn.proj.(weight|bias)
blocks.{layer}.norm2.weight                 h.{layer}.norm_2.weight
blocks.{layer}.mlp.(gate|up|down).(weight|bias)  h.{layer}.mlp.(fc_1|fc_2|proj).(weight|bias)
norm.weight                                 ln_f.weight
"""

LITGPT = Naming(
    _LITGPT_BODY
    + """
blocks.{layer}.attn.[q k v].weight          h.{layer}.attn.qkv.weight                             concat
blocks.{layer}.attn.[q k v].bias            h.{layer}.attn.qkv.bias                               concat
"""
)

LITGPT_LEGACY = Naming(
    _LITGPT_BODY
    + """
blocks.{layer}.attn.[q k v].weight          h.{layer}.attn.attn.weight                            interleave
blocks.{layer}.attn.[q k v].bias            h.{layer}.attn.attn.bias                              interleave
"""
)

LITGPT_FORK = Naming("""
embed.weight                                wte.weight
blocks.{layer}.norm1.weight                 h.{layer}.ln_1.weight
blocks.{layer}.attn.(q|k|v).weight          h.{layer}.attn.(q_proj|k_proj|v_proj).weight
blocks.{layer}.attn.(q|k|v).bias            h.{layer}.attn.(q_proj|k_proj|v_proj).bias
blocks.{layer}.attn.(q_norm|k_norm).weight  h.{layer}.attn.(q_norm|k_norm).weight
blocks.{layer}.attn.o.(weight|bias)         h.{layer}.attn.c_proj.(weight|bias)
blocks.{layer}.norm2.weight                 h.{layer}.ln_2.weight
blocks.{layer}.mlp.(gate|up|down).(weight|bias)  h.{layer}.mlp.(gate_proj|up_proj|c_proj).(weight|bias)
norm.weight                                 ln_f.weight
""")

# Biases that a config grants: on q, k, v and o, and on all three of the MLP.
ATTENTION, MLP = "attention_bias", "mlp_bias"

NAMINGS = {"hf": HF, "litgpt": LITGPT, "litgpt-legacy": LITGPT_LEGACY, "litgpt-fork": LITGPT_FORK}

SPELLINGS = parse_spellings("""
d_model     hidden_size | n_embd | width
layers      num_hidden_layers | n_layer | depth
q_heads     num_attention_heads | n_head | num_heads
kv_heads    num_key_value_heads | n_query_groups | num_kv_heads
head_dim    head_dim | head_size
d_ff        intermediate_size | mlp_dim
vocab       vocab_size | padded_vocab_size | vocab
""")


def _size(numbers: str) -> dict[str, int]:
    names = ("d_model", "layers", "q_heads", "kv_heads", "head_dim", "d_ff", "vocab")
    return dict(zip(names, map(int, numbers.split()), strict=True))


# d_model, layers, q_heads, kv_heads, head_dim, d_ff, vocab: each from the config.json that its owner published.
LLAMA_SIZES = {
    "llama2-7b": _size("4096 32 32 32 128 11008 32000"),
    "llama2-13b": _size("5120 40 40 40 128 13824 32000"),
    "llama3-8b": _size("4096 32 32 8 128 14336 128256"),
    "llama3.2-1b": _size("2048 16 32 8 64 8192 128256"),
    "llama3.2-3b": _size("3072 28 24 8 128 8192 128256"),
}
MISTRAL_SIZES = {
    "mistral-7b": _size("4096 32 32 8 128 14336 32768"),
    "mistral-7b-v0.1": _size("4096 32 32 8 128 14336 32000"),
    "mistral-nemo-12b": _size("5120 40 32 8 128 14336 131072"),
    "mistral-small-24b": _size("5120 40 32 8 128 32768 131072"),
}
SMOLLM3_SIZES = {"smollm3-3b": _size("2048 36 16 4 128 11008 128256")}
QWEN2_SIZES = {
    "qwen2-0.5b": _size("896 24 14 2 64 4864 151936"),
    "qwen2-1.5b": _size("1536 28 12 2 128 8960 151936"),
    "qwen2.5-3b": _size("2048 36 16 2 128 11008 151936"),
    "qwen2-7b": _size("3584 28 28 4 128 18944 152064"),
    "qwen2.5-14b": _size("5120 48 40 8 128 13824 152064"),
    "qwen2.5-32b": _size("5120 64 40 8 128 27648 152064"),
    "qwen2-72b": _size("8192 80 64 8 128 29568 152064"),
}
QWEN3_SIZES = {
    "qwen3-0.6b": _size("1024 28 16 8 128 3072 151936"),
    "qwen3-1.7b": _size("2048 28 16 8 128 6144 151936"),
    "qwen3-4b": _size("2560 36 32 8 128 9728 151936"),
    "qwen3-8b": _size("4096 36 32 8 128 12288 151936"),
    "qwen3-14b": _size("5120 40 40 8 128 17408 151936"),
    "qwen3-32b": _size("5120 64 64 8 128 25600 151936"),
}
GEMMA_SIZES = {
    "gemma_2b": _size("2048 18 8 1 256 16384 257152"),
    "gemma-2b": _size("2048 18 8 1 256 16384 256000"),
    "gemma-7b": _size("3072 28 16 16 256 24576 256000"),
}
# The action expert has the heads of the Gemma it attends with, not 1024/8 (openpi@15a9616 models/dialects/gemma.py).
GEMMA_EXPERT_SIZES = {"gemma_300m": _size("1024 18 8 1 256 4096 257152")}


def _settings(
    *,
    theta: float,
    eps: float,
    activation: str,
    why: str,
    activation_keys: tuple[str, ...] = ("hidden_act",),
    reach: int,
    unsaid_theta: float | None = None,
    unsaid_eps: float | None = None,
    unsaid_reach: int | None = None,
) -> tuple[Setting, ...]:
    """What the published models have and, where it differs, the defaults of transformers' config class.

    `reach` is the longest sequence.
    """
    rope = ("rope_theta", "rope_parameters.rope_theta", "rope_base")
    return (
        Setting("rope_theta", rope, theta, why, unsaid_theta),
        Setting("rope_scaling", ("rope_scaling", "rope_parameters"), {}, why),
        Setting("norm_eps", ("rms_norm_eps", "norm_eps"), eps, why, unsaid_eps),
        Setting("activation", activation_keys, activation, why),
        Setting("max_positions", ("max_position_embeddings", "block_size"), reach, why, unsaid_reach),
    )


def decoder(
    id: str,
    *features: str,
    sizes: Mapping[str, Mapping[str, int]],
    settings: tuple[Setting, ...],
    head_dim: int,
    dialect: str,
    dead_head: bool = False,
    norms_begin: str = "ones",
    litgpt: Mapping[str, Any] = _NONE,
    named_by: tuple[str, ...] = (),
    biases: tuple[str, ...] = (),
) -> Part:
    """One variant of the decoder. `head_dim` is the convention for sizes nobody published.

    `biases` are those that a model may have, by the keys of its config: `attention_bias`, `mlp_bias`.
    """
    leaves = "\n".join(row for row in LEAVES.splitlines() if dead_head or not row.endswith("dead"))
    leaves = leaves.replace("if norm", f"if norm, init {norms_begin}")
    if ATTENTION in biases:
        leaves = leaves.replace("if qkv_bias", f"if {ATTENTION}").replace("if o_bias", f"if {ATTENTION}")
    facts = Facts(
        spellings=SPELLINGS,
        settings=settings,
        sizes=sizes,
        conventions=(("head_dim", head_dim, f"{id} convention"),),
        litgpt=litgpt,
        named_by=named_by,
        flags={key: key for key in biases},
    )
    return Part(
        id=id,
        table=leaves,
        namings=NAMINGS,
        features=features,
        optional=biases,
        facts=facts,
        purpose="decoder",
        module=f"dovetail.models.dialects.{dialect}:{dialect.upper()}",
    )


_GEMMA = _settings(
    theta=10_000.0,
    eps=1e-6,
    activation="gelu_pytorch_tanh",
    activation_keys=("hidden_activation", "hidden_act"),
    why="gemma convention",
    reach=8192,
)


def _kinds(said: Any) -> Any:
    """The kinds of layers, which LitGPT marks with 0 and 1."""
    words = {0: "full_attention", 1: "sliding_attention"}
    return [words.get(one, one) for one in said] if isinstance(said, list) else said


_LAYER_TYPES = Setting(
    "layer_types",
    ("layer_types", "sliding_window_indices"),
    [],
    "every layer alike",
    when="sliding_window",
    means=_kinds,
)
_IS_USED = ("use_sliding_window", "sliding_window_size")  # LitGPT says the size and nothing else


def _window(unsaid: int, why: str, when: str = "") -> Setting:
    """How many tokens a layer looks at, 0 for all; configs say null for all."""
    names = ("sliding_window", "sliding_window_size")
    return Setting("sliding_window", names, 0, why, unsaid, null=0, when=when)


# transformers@5.23.0 configuration_qwen2.py: a window is only used where the first of these says so.
_WINDOWS = (
    Setting("use_sliding_window", _IS_USED, False, "qwen convention", means=bool),
    _window(4096, "qwen convention", "use_sliding_window"),
    Setting("max_window_layers", ("max_window_layers",), 28, "qwen convention", when="use_sliding_window"),
    _LAYER_TYPES._replace(when="use_sliding_window"),
)

LLAMA = decoder(
    "llama",
    "embed",
    "norm",
    sizes=LLAMA_SIZES,
    head_dim=128,
    dialect="llama",
    settings=_settings(
        theta=10_000.0,
        eps=1e-5,
        activation="silu",
        why="llama 2 convention",
        reach=4096,
        unsaid_eps=1e-6,
        unsaid_reach=2048,
    ),
    biases=(ATTENTION, MLP),
)


def _mistral(id: str, *more: Setting) -> Part:
    """Llama's, with a window in 0.1 and Ministral; the config class has one where a config is silent."""
    settings = _settings(
        theta=1_000_000.0,
        eps=1e-5,
        activation="silu",
        why="mistral convention",
        reach=32_768,
        unsaid_theta=10_000.0,
        unsaid_eps=1e-6,
        unsaid_reach=131_072,
    )
    return decoder(
        id,
        "embed",
        "norm",
        sizes=MISTRAL_SIZES,
        head_dim=128,
        dialect="llama",
        settings=(*settings, _window(4096, "mistral convention since 0.2"), *more),
        named_by=("model_type", id),
    )


MISTRAL = _mistral("mistral")
MINISTRAL = _mistral("ministral", _LAYER_TYPES)

SMOLLM3 = decoder(
    "smollm3",
    "embed",
    "norm",
    sizes=SMOLLM3_SIZES,
    head_dim=128,
    dialect="llama",
    settings=(
        *_settings(
            theta=5_000_000.0,
            eps=1e-6,
            activation="silu",
            why="smollm3 convention",
            reach=32_768,
            unsaid_theta=2_000_000.0,
        ),
        Setting("no_rope_layers", ("no_rope_layers",), [], "as no_rope_layer_interval says"),
        Setting("no_rope_layer_interval", ("no_rope_layer_interval",), 4, "smollm3 convention"),
        Setting("use_sliding_window", _IS_USED, False, "smollm3 convention", means=bool),
        _window(0, "smollm3 convention", "use_sliding_window"),
        _LAYER_TYPES._replace(when="use_sliding_window"),
    ),
    named_by=("model_type", "smollm3"),
    biases=(ATTENTION, MLP),
)


def _qwen2(*, unsaid_theta: float | None = None, unsaid_eps: float | None = None) -> Part:
    settings = _settings(
        theta=1_000_000.0,
        eps=1e-6,
        activation="silu",
        why="qwen2 convention",
        reach=32_768,
        unsaid_theta=unsaid_theta,
        unsaid_eps=unsaid_eps,
    )
    return decoder(
        "qwen2",
        "embed",
        "norm",
        "qkv_bias",
        sizes=QWEN2_SIZES,
        head_dim=128,
        dialect="qwen2",
        litgpt={"attn_bias": True},
        settings=(*settings, *_WINDOWS),
    )


QWEN2 = _qwen2(unsaid_theta=10_000.0)
QWEN2_OF_VL = _qwen2(unsaid_eps=1e-5)  # as Qwen2VLConfig has it


def _qwen3(*more: Setting, theta: float, why: str, reach: int, unsaid_theta: float) -> Part:
    settings = _settings(
        theta=theta, eps=1e-6, activation="silu", why=why, reach=reach, unsaid_theta=unsaid_theta
    )
    return decoder(
        "qwen3",
        "embed",
        "norm",
        "qk_norm",
        sizes=QWEN3_SIZES,
        head_dim=128,
        dialect="qwen3",
        litgpt={"norm_qk": True},
        biases=(ATTENTION,),
        settings=(*settings, *more),
    )


QWEN3 = _qwen3(*_WINDOWS, theta=1_000_000.0, why="qwen3 convention", reach=32_768, unsaid_theta=10_000.0)
# transformers 4.57 takes 5,000,000 where a config is silent, 5.0-5.24 take 500,000.
QWEN3_OF_VL = _qwen3(theta=5_000_000.0, why="qwen3_vl convention", reach=128_000, unsaid_theta=500_000.0)


def _gemma(id: str, *features: str, sizes: Mapping[str, Mapping[str, int]], dead_head: bool = False) -> Part:
    return decoder(
        id,
        *features,
        sizes=sizes,
        head_dim=256,
        settings=_GEMMA,
        dialect="gemma",
        dead_head=dead_head,
        norms_begin="zeros",  # their weight counts from 1
        biases=(ATTENTION,),
        litgpt={
            # LitGPT adds one to the norms of a model that has `Gemma` in its name (`Config.norm_class`)
            "name": "Gemma",
            "mlp_class_name": "GemmaMLP",
            "scale_embeddings": True,
            "gelu_approximate": "tanh",
        },
    )


GEMMA = _gemma("gemma", "embed", "norm", sizes=GEMMA_SIZES)
GEMMA_EXPERT = _gemma("gemma_expert", "norm", sizes=GEMMA_EXPERT_SIZES, dead_head=True)
GEMMA_ADA_EXPERT = _gemma("gemma_ada_expert", "ada_norm", sizes=GEMMA_EXPERT_SIZES, dead_head=True)

HEAD = Part(
    id="head",
    purpose="head",
    table="weight  vocab d_model",
    namings={"hf": Naming("weight  weight")},
    facts=Facts(spellings=parse_spellings("vocab  vocab_size | padded_vocab_size")),
)
