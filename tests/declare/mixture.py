"""An invented family with all that a decoder of today may have: experts, single numbers, layers of two kinds."""

from dovetail.declare.family import ConfigKeys, Family, Mount, layout
from dovetail.declare.part import Facts, Naming, Part, parse_spellings

BODY = """
embed.weight                              embed_tokens.weight
blocks.{layer}.norm.weight                layers.{layer}.norm.weight
blocks.{layer}.(low|high)                 layers.{layer}.(input_min|input_max)
blocks.{layer}.router.weight              layers.{layer}.mlp.gate.weight
norm.weight                               norm.weight
"""

DECODER = Part(
    id="mixture_decoder",
    purpose="decoder",
    table="""
    embed.weight                                    vocab d_model
    blocks.{layer}.norm.weight                      d_model
    blocks.{layer}.(low|high)                       ()                    init zeros
    blocks.{layer}.router.weight                    experts d_model
    blocks.{layer}.experts.{expert}.(gate|up).weight  d_expert d_model
    blocks.{layer}.experts.{expert}.down.weight     d_model d_expert
    norm.weight                                     d_model
    """,
    namings={
        "each": Naming(
            BODY
            + """
    blocks.{layer}.experts.{expert}.(gate|up|down).weight  layers.{layer}.mlp.experts.{expert}.(gate_proj|up_proj|down_proj).weight
    """
        ),
        "stacked": Naming(
            BODY
            + """
    blocks.{layer}.experts.{expert}.[gate up].weight  layers.{layer}.mlp.experts.gate_up_proj  concat, stack expert
    blocks.{layer}.experts.{expert}.down.weight      layers.{layer}.mlp.experts.down_proj     stack expert
    """
        ),
        "turned": Naming(
            BODY
            + """
    blocks.{layer}.experts.{expert}.[gate up].weight  layers.{layer}.mlp.experts.gate_up_proj  concat, transpose, stack expert
    blocks.{layer}.experts.{expert}.down.weight      layers.{layer}.mlp.experts.down_proj     transpose, stack expert
    """
        ),
    },
    facts=Facts(
        spellings=parse_spellings("""
        d_model    hidden_size
        layers     num_hidden_layers
        experts    num_experts
        d_expert   moe_intermediate_size
        vocab      vocab_size
        """)
    ),
)

FAMILY = Family(
    id="mixture",
    title="Mixture",
    parts={"text": (DECODER,)},
    layouts=(
        layout("each", {"text": Mount("model.", "each")}),
        layout("stacked", {"text": Mount("model.", "stacked")}),
        layout("turned", {"text": Mount("model.", "turned")}),
    ),
    config=ConfigKeys(model_types=("mixture",), roots={"text": ("",)}),
)
# Pairwise different primes.
SIZES = {
    "text.vocab": 29,
    "text.d_model": 11,
    "text.layers": 5,
    "text.experts": 3,
    "text.d_expert": 7,
}
