"""An invented decoder whose layers are of two kinds, twice over: other tensors, other widths of the same tensors."""

from dovetail.declare.family import ConfigKeys, Family, Mount, Pipeline, layout
from dovetail.declare.part import Facts, LayerKinds, Naming, Part, parse_spellings

DECODER = Part(
    id="alternating_decoder",
    purpose="decoder",
    table="""
    embed.weight                                 vocab d_model
    blocks.{layer}.norm.weight                   d_model
    blocks.{layer:sliding}.attn.(q|k).weight     (heads head_dim) d_model
    blocks.{layer:sliding}.attn.v.weight         (heads head_dim) d_model
    blocks.{layer:full}.attn.(q|k).weight        (heads full_dim) d_model
    blocks.{layer:full}.attn.gate.weight         full_dim d_model
    blocks.{layer:sliding}.attn.norm.weight      head_dim
    blocks.{layer:full}.attn.norm.weight         full_dim
    blocks.{layer:narrow}.mlp.up.weight          d_ff d_model
    blocks.{layer:wide}.mlp.up.weight            (2 d_ff) d_model
    blocks.{layer:tabled}.table.weight           vocab d_table
    """,
    namings={
        "hf": Naming("""
    embed.weight                                 embed_tokens.weight
    blocks.{layer}.norm.weight                   layers.{layer}.norm.weight
    blocks.{layer:(sliding|full)}.attn.q.weight  layers.{layer:(sliding|full)}.self_attn.q_proj.weight
    blocks.{layer:(sliding|full)}.attn.k.weight  layers.{layer:(sliding|full)}.self_attn.k_proj.weight
    blocks.{layer:sliding}.attn.v.weight         layers.{layer:sliding}.self_attn.v_proj.weight
    blocks.{layer:full}.attn.gate.weight         layers.{layer:full}.self_attn.gate.weight
    blocks.{layer:(sliding|full)}.attn.norm.weight  layers.{layer:(sliding|full)}.self_attn.norm.weight
    blocks.{layer:(narrow|wide)}.mlp.up.weight   layers.{layer:(narrow|wide)}.mlp.up_proj.weight
    blocks.{layer:tabled}.table.weight           layers.{layer:tabled}.table.weight
    """),
        "fused": Naming("""
    embed.weight                                 wte.weight
    blocks.{layer}.norm.weight                   h.{layer}.ln.weight
    blocks.{layer:sliding}.attn.[q k v].weight   h.{layer:sliding}.attn.weight      concat
    blocks.{layer:full}.attn.[q k].weight        h.{layer:full}.attn.weight         concat
    blocks.{layer:full}.attn.gate.weight         h.{layer:full}.gate.weight         transpose
    blocks.{layer:(sliding|full)}.attn.norm.weight  h.{layer:(sliding|full)}.attn_norm.weight
    blocks.{layer:(narrow|wide)}.mlp.up.weight   h.{layer:(narrow|wide)}.mlp.weight
    blocks.{layer:tabled}.table.weight           h.{layer:tabled}.table.weight
    """),
    },
    facts=Facts(
        spellings=parse_spellings("""
        d_model    hidden_size
        layers     num_hidden_layers
        heads      num_attention_heads
        head_dim   head_dim
        full_dim   global_head_dim
        d_ff       intermediate_size
        vocab      vocab_size
        d_table    table_size
        """),
        layer_kinds=(
            LayerKinds({"sliding": "sliding_attention", "full": "full_attention"}),
            LayerKinds({"narrow": "narrow", "wide": "double_wide"}, "mlp_types"),
        ),
    ),
)

FAMILY = Family(
    id="alternating",
    title="Alternating",
    parts={"text": (DECODER,)},
    pipeline=Pipeline(last=()),
    layouts=(
        layout("hf", {"text": Mount("model.", "hf")}),
        layout("fused", {"text": Mount("transformer.", "fused")}),
    ),
    config=ConfigKeys(model_types=("alternating",), roots={"text": ("",)}),
)
# Pairwise different primes.
SIZES = {
    "text.vocab": 29,
    "text.d_model": 23,
    "text.layers": 11,
    "text.heads": 2,
    "text.head_dim": 13,
    "text.full_dim": 17,
    "text.d_ff": 19,
    "text.d_table": 5,
}
MEMBERS = {"text.full_layers": "2,5,8", "text.wide_layers": "0,5,6", "text.tabled_layers": "1,4,7"}
ALL_MEMBERS = {
    "text.sliding_layers": [0, 1, 3, 4, 6, 7, 9, 10],
    "text.full_layers": [2, 5, 8],
    "text.narrow_layers": [1, 2, 3, 4, 7, 8, 9, 10],
    "text.wide_layers": [0, 5, 6],
    "text.tabled_layers": [1, 4, 7],
}
