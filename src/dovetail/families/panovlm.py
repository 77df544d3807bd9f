"""PanoVLM and its rewrite CORA: a SigLIP tower, one of nine resamplers, a linear projector, a decoder.

The checkpoint is Lightning's and names the resampler, the projector and (CORA) the decoder twice,
because the modules are registered under two attributes. The resampler's sizes are saved nowhere: its
shapes give them back, except what no shape can show (`norm_first`, dropout, head counts).

Sources: wooseungw/panollava@ab73e9e `legacy/src_panovlm/models/`, @48559af `src/cora/model/`; mamba_ssm
`modules/mamba_simple.py` for the mixer (dt_rank = ceil(d_model / 16)); transformers BertModel for the
Q-Former; lucidrains/flamingo-pytorch for the perceiver.
"""

from collections.abc import Mapping

from dovetail.declare.family import LIGHTNING, ConfigKeys, Family, Layout, Mount, layout, scoped
from dovetail.declare.part import Derived, Facts, Naming, Part, Setting, parse_spellings
from dovetail.families.decoder import HEAD, LLAMA, QWEN2, QWEN2_SIZES, QWEN3
from dovetail.families.paligemma import LINEAR
from dovetail.families.siglip import SIGLIP
from dovetail.families.siglip import SIZES as SIGLIP_SIZES


def _same(table: str) -> Naming:
    """A naming whose stored names are the leaf names: the resamplers have one tradition only."""
    names = [row.split("  ")[0].strip() for row in table.strip().splitlines()]
    return Naming("\n".join(f"{name}  {name}" for name in names))


def _resampler(id: str, table: str, **facts: object) -> Part:
    optional = tuple(
        dict.fromkeys(
            row.split(" if ")[1].partition(",")[0].strip() for row in table.splitlines() if " if " in row
        )
    )
    return Part(
        id=id,
        purpose="connector",
        table=table,
        namings={"hf": _same(table)},
        optional=optional,
        facts=Facts(**facts),  # type: ignore[arg-type]
    )


def expand(sizes: Mapping[str, int]) -> tuple[float, str]:
    """`expand` as mamba_ssm wants it: int(expand * hidden_dim) must give d_inner back.

    The plain ratio does for most widths; where int() rounds it down by one, half a unit is added.
    """
    inner, hidden = sizes["d_inner"], sizes["hidden_dim"]
    if int(inner / hidden * hidden) == inner:
        return inner / hidden, "d_inner / hidden_dim"
    return (inner + 0.5) / hidden, "(d_inner + 0.5) / hidden_dim, which int() rounds to d_inner"


def means_d_inner(value: object, sizes: Mapping[str, int]) -> bool:
    """Whether a config's `expand` gives this d_inner."""
    return isinstance(value, int | float) and int(value * sizes["hidden_dim"]) == sizes["d_inner"]


EXPAND = Derived("expand", ("d_inner", "hidden_dim"), expand, means_d_inner, ("expand", "resampler_expand"))

_MIXER = """
blocks.{block}.(forward_block|backward_block).A_log            d_inner d_state           init a_log
blocks.{block}.(forward_block|backward_block).D                d_inner                   init ones
blocks.{block}.(forward_block|backward_block).in_proj.weight   (2 d_inner) hidden_dim
blocks.{block}.(forward_block|backward_block).conv1d.weight    d_inner 1 d_conv
blocks.{block}.(forward_block|backward_block).conv1d.bias      d_inner
blocks.{block}.(forward_block|backward_block).x_proj.weight    (dt_rank + 2 d_state) d_inner
blocks.{block}.(forward_block|backward_block).dt_proj.weight   d_inner dt_rank
blocks.{block}.(forward_block|backward_block).dt_proj.bias     d_inner
blocks.{block}.(forward_block|backward_block).out_proj.weight  hidden_dim d_inner
"""


def _named(word: str) -> tuple[str, str]:
    """Where configs say which resampler it is, and the word for it."""
    return "resampler_type", word


BIMAMBA = _resampler(
    "bimamba",
    """
input_proj.(weight|bias)             hidden_dim in_dim | hidden_dim
blocks.{block}.norm.(weight|bias)    hidden_dim
"""
    + _MIXER
    + """
final_norm.(weight|bias)             hidden_dim
output_proj.(weight|bias)            out_dim hidden_dim | out_dim
""",
    named_by=_named("bimamba"),
    counts={"block": "depth"},
    equations=("dt_rank = ceil(hidden_dim / 16)",),
    derived=(EXPAND,),
    spellings=parse_spellings("""
    hidden_dim  hidden_dim | resampler_hidden_dim
    depth       num_layers | depth | resampler_depth
    d_inner     d_inner
    d_state     d_state | resampler_d_state
    d_conv      d_conv | resampler_d_conv
    dt_rank     dt_rank
    in_dim      in_dim
    out_dim     out_dim | latent_dimension
    """),
    settings=(
        Setting("norm_first", ("norm_first", "resampler_norm_first"), None),
        Setting("dropout", ("dropout", "resampler_dropout"), None),
        Setting("norm_eps", ("layer_norm_eps",), 1e-5, "torch.nn.LayerNorm default"),
    ),
)

QFORMER = _resampler(
    "qformer",
    """
query                                                                    1 queries in_dim
bert.embeddings.word_embeddings.weight                                   vocab in_dim
bert.embeddings.position_embeddings.weight                               positions in_dim
bert.embeddings.token_type_embeddings.weight                             types in_dim
bert.embeddings.LayerNorm.(weight|bias)                                  in_dim
bert.encoder.layer.{layer}.attention.self.(query|key|value).(weight|bias)       in_dim in_dim | in_dim
bert.encoder.layer.{layer}.attention.output.dense.(weight|bias)          in_dim in_dim | in_dim
bert.encoder.layer.{layer}.attention.output.LayerNorm.(weight|bias)      in_dim
bert.encoder.layer.{layer}.crossattention.self.(query|key|value).(weight|bias)  in_dim in_dim | in_dim
bert.encoder.layer.{layer}.crossattention.output.dense.(weight|bias)     in_dim in_dim | in_dim
bert.encoder.layer.{layer}.crossattention.output.LayerNorm.(weight|bias)  in_dim
bert.encoder.layer.{layer}.intermediate.dense.(weight|bias)              d_ff in_dim | d_ff
bert.encoder.layer.{layer}.output.dense.(weight|bias)                    in_dim d_ff | in_dim
bert.encoder.layer.{layer}.output.LayerNorm.(weight|bias)                in_dim
bert.pooler.dense.(weight|bias)                                          in_dim in_dim | in_dim
proj.(weight|bias)                                                       out_dim in_dim | out_dim
""",
    named_by=_named("qformer"),
    open_dims={"heads": "in_dim"},
    conventions=(("heads", 8, "fixed in the legacy code, whatever its config says"),),
    spellings=parse_spellings("""
    queries     num_query_tokens | resampler_num_query_tokens | num_query
    layers      num_hidden_layers | resampler_num_hidden_layers
    heads       num_attention_heads
    """),
)

PERCEIVER = _resampler(
    "perceiver",
    """
perceiver.latents                                              latents in_dim
perceiver.layers.{layer}.0.(norm_media|norm_latents).(weight|bias)  in_dim
perceiver.layers.{layer}.0.to_q.weight                         (heads head_dim) in_dim
perceiver.layers.{layer}.0.to_kv.weight                        (2 heads head_dim) in_dim
perceiver.layers.{layer}.0.to_out.weight                       in_dim (heads head_dim)
perceiver.layers.{layer}.1.0.(weight|bias)                     in_dim                     if ff
perceiver.layers.{layer}.1.1.weight                            d_ff in_dim                if ff
perceiver.layers.{layer}.1.3.weight                            in_dim d_ff                if ff
perceiver.norm.(weight|bias)                                   in_dim
proj.(weight|bias)                                             out_dim in_dim | out_dim   if proj
""",
    named_by=_named("perceiver"),
    conventions=(("head_dim", 64, "flamingo convention"),),
    spellings=parse_spellings("""
    latents     num_latents | resampler_num_latents
    layers      depth | resampler_depth
    heads       heads | resampler_heads
    head_dim    dim_head
    """),
)

C_ABSTRACTOR = _resampler(
    "c_abstractor",
    """
input_proj.(weight|bias)                               hidden_dim in_dim | hidden_dim
(stage1|stage2).{block}.dwconv.(weight|bias)           hidden_dim 1 kernel kernel | hidden_dim
(stage1|stage2).{block}.norm.norm.(weight|bias)        hidden_dim
(stage1|stage2).{block}.pw1.(weight|bias)              d_inner hidden_dim 1 1 | d_inner
(stage1|stage2).{block}.se.fc.0.(weight|bias)          d_squeeze d_inner | d_squeeze
(stage1|stage2).{block}.se.fc.2.(weight|bias)          d_inner d_squeeze | d_inner
(stage1|stage2).{block}.pw2.(weight|bias)              hidden_dim d_inner 1 1 | hidden_dim
final_norm.(weight|bias)                               hidden_dim
readout.0.(weight|bias)                                out_dim hidden_dim | out_dim
readout.2.(weight|bias)                                out_dim out_dim | out_dim          if readout
""",
    named_by=_named("c_abstractor"),
    counts={"block": "depth"},
    settings=(Setting("num_queries", ("num_queries",), None),),
    spellings=parse_spellings("hidden_dim  hidden_dim\ndepth  depth\nkernel  kernel_size"),
)

CONV = _resampler(
    "conv",
    """
input_proj.(weight|bias)                                       out_dim in_dim | out_dim                     if resize
repeated_stages.{repeat}.{stage}.{block}.dwconv.(weight|bias)  out_dim 1 kernel kernel | out_dim
repeated_stages.{repeat}.{stage}.{block}.norm.(weight|bias)    out_dim
repeated_stages.{repeat}.{stage}.{block}.pwconv1.(weight|bias)  (4 out_dim) out_dim | (4 out_dim)
repeated_stages.{repeat}.{stage}.{block}.pwconv2.(weight|bias)  out_dim (4 out_dim) | out_dim
norm.(weight|bias)                                             out_dim
head.(weight|bias)                                             out_dim out_dim | out_dim
""",
    named_by=_named("conv"),
)


def _mlp(
    id: str, attribute: str, depth: int, *, norm: bool, pool: bool = False, settings: tuple[Setting, ...] = ()
) -> Part:
    """`depth` linears in an nn.Sequential, each but the last followed by an optional norm and a GELU."""
    stride = 3 if norm else 2
    rows = ["pool.(weight|bias)  in_dim in_dim kernel kernel | in_dim"] if pool else []
    for i in range(depth):
        source = "in_dim" if i == 0 else "hidden_dim"
        target = "out_dim" if i == depth - 1 else "hidden_dim"
        rows.append(f"{attribute}.{i * stride}.(weight|bias)  {target} {source} | {target}")
        if norm and i < depth - 1:
            rows.append(f"{attribute}.{i * stride + 1}.(weight|bias)  hidden_dim")
    table = "\n".join(rows)
    return _resampler(
        f"{id}_{depth}" if norm else f"{id}_{depth}_plain",
        table,
        constants={"depth": depth, "use_ln": norm},
        named_by=_named("mlp") if id == "mlp" else (),
        settings=settings,
        spellings=parse_spellings("hidden_dim  hidden_dim | resampler_hidden_dim") if depth > 1 else {},
    )


# A config's `null` pools nothing, and reads as if it were not there.
_POOLED = (
    Setting("pool_tokens", ("pool_tokens", "resampler_pool_tokens"), 0, "panovlm keeps all tokens"),
    Setting("pool_type", ("pool_type", "resampler_pool_type"), "avg", "panovlm default"),
)
MLPS = tuple(
    _mlp("mlp", "mlp", depth, norm=norm, settings=_POOLED)
    for depth in range(6, 0, -1)
    for norm in (True, False)
    if depth > 1 or norm
)
# After pooling or dropping tokens, a projection of depth 1-4. Average and max pooling, and dropping, have no
# tensors of their own: which of them it was stands in the config only.
_KINDLESS = (
    Setting("resampler_type", ("resampler_type",), None),
    Setting("pool_mode", ("pool_mode",), "average", "CORA default"),
    Setting("pool_size", ("pool_size",), 4, "CORA default"),
)
SPATIAL_POOLS = tuple(
    _mlp("spatial_pool_conv", "proj", depth, norm=True, pool=True) for depth in (4, 3, 2, 1)
)
POOLS = tuple(
    _mlp("spatial_pool_or_masked_drop", "proj", d, norm=True, settings=_KINDLESS) for d in (4, 3, 2, 1)
)
PROJECTION = _resampler("identity_or_avg", "proj.(weight|bias)  out_dim in_dim | out_dim", settings=_KINDLESS)

RESAMPLERS = (BIMAMBA, QFORMER, PERCEIVER, C_ABSTRACTOR, CONV, *MLPS, *SPATIAL_POOLS, *POOLS, PROJECTION)

NORM = Part(
    id="norm", table="(weight|bias)  d_vision", namings={"hf": Naming("(weight|bias)  (weight|bias)")}
)
TEXT_PROJECTION = Part(
    id="linear",
    table="(weight|bias)  d_model d_model | d_model",
    namings={"hf": Naming("(weight|bias)  (weight|bias)")},
)
VICREG = tuple(
    Part(
        id="vicreg_mlp",
        table="""
        fc1.(weight|bias)      d_hidden d_in | d_hidden
        norm.(weight|bias)     d_hidden
        fc2.(weight|bias)      d_out d_hidden | d_out
        """,
        namings={
            "hf": Naming(f"""
        fc1.(weight|bias)      0.(weight|bias)
        norm.(weight|bias)     1.(weight|bias)
        fc2.(weight|bias)      {last}.(weight|bias)
        """)
        },
    )
    for last in (3, 4)
)


_CODE = "what both projectors fall back to"


def _said(key: str) -> tuple[str, ...]:
    """Where configs have a setting of the model: hyperparameters, metadata, or the YAML of a run."""
    return key, f"model_config.{key}", f"models.{key}"


def _of_images(key: str) -> tuple[str, ...]:
    return f"image_processing.{key}", f"training_config.{key}", key


# What is not known here follows from `pipeline`: which of the two code bases runs the tensors.
SETTINGS = (
    Setting("pipeline", ("pipeline",), None),
    Setting("image_token", ("image_token_id",), -200, "stands for <|vision|>, whose id is the tokenizer's"),
    Setting("first_is_whole", ("first_is_whole",), None),
    Setting("has_positions", _said("use_projection_positional_encoding"), None),
    Setting("pe_enable_continuity", _said("pe_enable_continuity"), True, _CODE),
    Setting("pe_spatial_encoding_type", _said("pe_spatial_encoding_type"), "sinusoidal", _CODE),
    Setting("pe_temperature", _said("pe_temperature"), 10_000.0, _CODE),
    Setting("overlap_ratio", (*_said("overlap_ratio"), "model_overlap_ratio"), 0.5, _CODE),
    Setting("stitching_mode", _said("stitching_mode"), "stride_views", _CODE),
    Setting("stitch_target_cols", _said("stitch_target_cols"), 0, _CODE),
    Setting("stitch_target_to_view_width", _said("stitch_target_to_view_width"), False, _CODE),
    Setting("stitch_interp", _said("stitch_interp"), None),
    Setting("crop_strategy", _of_images("crop_strategy"), None),
    Setting("fov_deg", _of_images("fov_deg"), 90.0, "panovlm default"),
    Setting("view_overlap", _of_images("overlap_ratio"), 0.5, "panovlm default"),
)


def _panovlm(
    id: str,
    note: str,
    *,
    pipeline: str,
    vision: str,
    resampler: Mount,
    projector: Mount,
    text: Mount,
    head: Mount,
) -> Layout:
    return layout(
        id,
        {
            "vision": f"{vision}.encoder.",
            "vision_norm": f"{vision}.norm.",
            "resampler": resampler,
            "projector": projector,
            "text": text,
            "head": head,
            "vicreg": "vicreg_projector.mlp.",
            "text_projection": "text_projection.",
        },
        container=LIGHTNING,
        note=note,
        implies={"pipeline": pipeline},
    )


FAMILY = Family(
    id="panovlm",
    title="PanoVLM / CORA",
    parts={
        "vision": (SIGLIP,),
        "vision_norm": (NORM,),
        "resampler": RESAMPLERS,
        "projector": (LINEAR,),
        "text": (QWEN2, QWEN3, LLAMA),
        "head": (HEAD,),
        "vicreg": VICREG,
        "text_projection": (TEXT_PROJECTION,),
    },
    joints="""
    vision_norm.d_vision = vision.d_vision
    resampler.in_dim = vision.d_vision
    projector.d_in = resampler.out_dim
    projector.d_out = text.d_model
    vicreg.d_in = resampler.out_dim
    text_projection.d_model = text.d_model
    """,
    tied_heads={"head": "text"},
    optional=("vision_norm", "vicreg", "text_projection"),
    layouts=(
        _panovlm(
            "legacy",
            "panovlm: resampler and projector under two names",
            pipeline="panovlm",
            vision="vision_backbone",
            resampler=Mount("resampler_module.resampler.", aliases=("resampler.",)),
            projector=Mount("projector.linear.", aliases=("vision_to_language_projection.",)),
            text=Mount("language_model.model."),
            head=Mount("language_model.lm_head."),
        ),
        _panovlm(
            "cora",
            "CORA: resampler, projector and decoder under two names",
            pipeline="cora",
            vision="vision_encoder",
            resampler=Mount("resampler_module.resampler.", aliases=("resampler.resampler.",)),
            projector=Mount("projector.linear.", aliases=("vision_to_language_projection.linear.",)),
            text=Mount("language_model_wrapper.model.model.", aliases=("language_model.model.",)),
            head=Mount("language_model_wrapper.model.lm_head.", aliases=("language_model.lm_head.",)),
        ),
        layout(
            "resampler",
            {"resampler": "resampler_module.resampler."},
            note="the resampler cut out of a checkpoint",
        ),
        layout("resampler-bare", {"resampler": ""}, note="the resampler's own state dict"),
    ),
    config=ConfigKeys(
        roots={
            "vision": ("vision_config",),
            "resampler": (
                "model_config.resampler_config",
                "resampler_config",
                "models.resampler_config",
                "model_config",
                "models",
                "",
            ),
            "text": ("text_config",),
            "projector": ("",),
        },
    ),
    sizes={
        "so400m-qwen2.5-0.5b": {
            **scoped("vision", SIGLIP_SIZES["so400m-patch16-256"]),
            **scoped("text", QWEN2_SIZES["qwen2-0.5b"]),
            "resampler.hidden_dim": 1024,
            "resampler.depth": 4,
            "resampler.d_inner": 1792,
            "resampler.d_state": 64,
            "resampler.d_conv": 4,
            "resampler.dt_rank": 64,
            "resampler.out_dim": 768,
        },
    },
    settings=SETTINGS,
    model="dovetail.models.vlm.panovlm:build_panovlm",
    inputs="dovetail.inputs.panovlm:PanoVlmInputs",
    # mamba_ssm modules/mamba_simple.py keeps both out of mixed precision
    float32=("resampler.*.A_log", "resampler.*.D"),
    side_file=("checkpoint_metadata.json", "dovetail.edit.side_files.panovlm:side_file"),
    sources=("wooseungw/panollava@ab73e9e", "wooseungw/panollava@48559af", "arXiv:2312.00752"),
)
