"""Peephole: a SigLIP tower, a resampler with learned queries, a Qwen2 decoder. An invented family.

A real file cites here where its names and shapes come from: papers, and source files with their commit.
"""

from dovetail.declare.family import ConfigKeys, Container, Family, Mount, layout, scoped
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.declare.prompt import Prompt
from dovetail.families.decoder import HEAD, QWEN2, QWEN2_SIZES
from dovetail.families.siglip import IMAGE_SETTINGS, SIGLIP
from dovetail.families.siglip import SIZES as SIGLIP_SIZES

RESAMPLER = Part(
    id="peephole_resampler",
    purpose="connector",
    table="""
    queries                                queries d_in
    blocks.{layer}.norm.(weight|bias)      d_in
    blocks.{layer}.attn.(q|k|v|o).weight   d_in d_in
    blocks.{layer}.gate                    1                      if gate, init zeros
    proj.(weight|bias)                     d_out d_in | d_out
    """,
    namings={
        "hf": Naming("""
        queries                                latents
        blocks.{layer}.norm.(weight|bias)      layers.{layer}.norm.(weight|bias)
        blocks.{layer}.attn.(q|k|v|o).weight   layers.{layer}.attn.(q_proj|k_proj|v_proj|o_proj).weight
        blocks.{layer}.gate                    layers.{layer}.gate
        proj.(weight|bias)                     proj.(weight|bias)
        """),
        "trainer": Naming("""
        queries                                query_tokens           as 1 queries d_in
        blocks.{layer}.norm.(weight|bias)      h.{layer}.ln.(weight|bias)
        blocks.{layer}.attn.[q k v].weight     h.{layer}.qkv.weight   concat
        blocks.{layer}.attn.o.weight           h.{layer}.out.weight
        blocks.{layer}.gate                    h.{layer}.gate
        proj.(weight|bias)                     to_text.(weight|bias)
        -                                      h.{layer}.mask         buffer
        """),
    },
    optional=("gate",),
    facts=Facts(
        spellings=parse_spellings("""
        queries     num_queries
        layers      num_hidden_layers
        heads       num_attention_heads
        """),
        open_dims={"heads": "d_in"},
        conventions=(("heads", 16, "peephole convention"),),
        settings=(Setting("norm_eps", ("layer_norm_eps",), 1e-6, "peephole convention"),),
    ),
)

FAMILY = Family(
    id="peephole",
    title="Peephole",
    parts={"vision": (SIGLIP,), "resampler": (RESAMPLER,), "text": (QWEN2,), "head": (HEAD,)},
    joints="resampler.d_in = vision.d_vision; resampler.d_out = text.d_model",
    tied_heads={"head": "text"},
    layouts=(
        layout(
            "hf",
            {
                "vision": "model.vision_tower.vision_model.",
                "resampler": "model.resampler.",
                "text": "model.language_model.",
                "head": "lm_head.",
            },
            note="save_pretrained",
        ),
        layout(
            "trainer",
            {
                "vision": "eye.vision_model.",
                "resampler": Mount("resampler.", "trainer"),
                "text": "llm.model.",
                "head": "llm.lm_head.",
            },
            container=Container("torch", "peephole.pt"),
            note="torch.save of the trainer",
        ),
    ),
    config=ConfigKeys(
        model_types=("peephole",),
        architecture="PeepholeForConditionalGeneration",
        roots={
            "vision": ("vision_config",),
            "resampler": ("resampler_config",),
            "text": ("text_config",),
            "head": ("text_config",),
        },
    ),
    sizes={
        "1b": {
            **scoped("vision", SIGLIP_SIZES["base-patch16-224"]),
            **scoped("text", QWEN2_SIZES["qwen2-0.5b"]),
            **scoped("resampler", {"queries": 64, "layers": 6, "heads": 12}),
            "resampler": "peephole_resampler+gate",
        },
    },
    settings=(Setting("image_token", ("image_token_id",), 3, "peephole convention"), *IMAGE_SETTINGS),
    model="peephole.model:Peephole",
    inputs="peephole.inputs:PeepholeInputs",
    prompt=Prompt("Question: {prompt}\nAnswer:", clean="strip"),
)
