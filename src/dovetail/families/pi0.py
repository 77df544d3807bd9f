"""pi0 and pi0.5: PaliGemma, a Gemma action expert that attends jointly with it, and the action heads.

The token table lives in `paligemma.lm_head`: safetensors keeps one name of a shared storage, the
alphabetically first, and the embedding is the other. The expert's own `lm_head` is in every file and
nothing reads it: 263 million random numbers, declared dead here. pi0.5 conditions the expert's norms
on time (`dense` leaves) and has no state projection.

Sources: openpi@15a9616 `models_pytorch/{pi0_pytorch,gemma_pytorch}.py`, `models/dialects/gemma.py`; lerobot
(`model.` prefix; 0.1-0.3 with the older PaliGemma names and normalisation buffers); transformers@5.23.0
`modeling_pi0.py`, `conversion_mapping.py`, saved and read back; arXiv:2410.24164, arXiv:2504.16054.
"""

from dovetail.declare.family import (
    ONE_FILE,
    ConfigKeys,
    Family,
    Layout,
    Mount,
    Pipeline,
    Placed,
    layout,
    scoped,
)
from dovetail.declare.part import Facts, Naming, Part, Setting, parse_spellings
from dovetail.declare.prompt import Prompt
from dovetail.families.decoder import GEMMA, GEMMA_ADA_EXPERT, GEMMA_EXPERT, GEMMA_EXPERT_SIZES, GEMMA_SIZES
from dovetail.families.history import NEW_READERS
from dovetail.families.paligemma import LINEAR
from dovetail.families.pi0_dialects import LEROBOT, OPENPI, TRANSFORMERS
from dovetail.families.siglip import HALF_PIXELS, SIGLIP, image_settings
from dovetail.families.siglip import SIZES as SIGLIP_SIZES

_SETTINGS = (
    Setting("action_horizon", ("action_horizon", "chunk_size"), 50, "openpi default"),
    Setting("min_period", ("min_period",), 4e-3, "openpi default"),
    Setting("max_period", ("max_period",), 4.0, "openpi default"),
)
_ACTION = "d_action  action_dim | max_action_dim"
_STATE = "d_state   state_dim | max_state_dim"

PI0_HEADS = Part(
    id="pi0_heads",
    purpose="policy head",
    table="""
    state.(weight|bias)        d_expert d_state | d_expert
    action_in.(weight|bias)    d_expert d_action | d_expert
    time_in.(weight|bias)      d_expert (2 d_expert) | d_expert
    time_out.(weight|bias)     d_expert d_expert | d_expert
    action_out.(weight|bias)   d_action d_expert | d_action
    """,
    namings={
        "hf": Naming("""
        state.(weight|bias)                          state_proj.(weight|bias)
        (action_in|action_out).(weight|bias)         (action_in_proj|action_out_proj).(weight|bias)
        (time_in|time_out).(weight|bias)             (action_time_mlp_in|action_time_mlp_out).(weight|bias)
        """),
        "transformers": Naming("""
        state.(weight|bias)                          embed_action_time.state_proj.(weight|bias)
        action_in.(weight|bias)                      embed_action_time.action_in_proj.(weight|bias)
        action_out.(weight|bias)                     action_out_proj.(weight|bias)
        time_in.(weight|bias)                        embed_action_time.action_time_mlp_in.(weight|bias)
        time_out.(weight|bias)                       embed_action_time.action_time_mlp_out.(weight|bias)
        """),
    },
    facts=Facts(spellings=parse_spellings(f"{_ACTION}\n{_STATE}"), settings=_SETTINGS),
)

PI05_HEADS = Part(
    id="pi05_heads",
    purpose="policy head",
    table="""
    action_in.(weight|bias)    d_expert d_action | d_expert
    time_in.(weight|bias)      d_expert d_expert | d_expert
    time_out.(weight|bias)     d_expert d_expert | d_expert
    action_out.(weight|bias)   d_action d_expert | d_action
    """,
    namings={
        "hf": Naming("""
        (action_in|action_out).(weight|bias)         (action_in_proj|action_out_proj).(weight|bias)
        (time_in|time_out).(weight|bias)             (time_mlp_in|time_mlp_out).(weight|bias)
        """),
        "transformers": Naming("""
        action_in.(weight|bias)                      embed_action_time.action_in_proj.(weight|bias)
        action_out.(weight|bias)                     action_out_proj.(weight|bias)
        (time_in|time_out).(weight|bias)             embed_action_time.(time_mlp_in|time_mlp_out).(weight|bias)
        """),
    },
    facts=Facts(spellings=parse_spellings(_ACTION), settings=_SETTINGS),
)

# openpi and lerobot keep what they do to images in their code; transformers' processor has a file.
_IMAGES = tuple(one._replace(is_quiet=True) for one in image_settings(*HALF_PIXELS, "as openpi has it"))

# lerobot 0.1-0.3 kept the statistics of the data set in the weights; later versions keep them in files.
NORMALIZER = Part(
    id="normalizer",
    table="""
    state_in.mean              d_robot_state     init zeros
    state_in.std               d_robot_state     init ones
    action_in.mean             d_robot_action    init zeros
    action_in.std              d_robot_action    init ones
    action_out.mean            d_robot_action    init zeros
    action_out.std             d_robot_action    init ones
    """,
    namings={
        "hf": Naming("""
        state_in.(mean|std)      normalize_inputs.buffer_observation_state.(mean|std)
        action_in.(mean|std)     normalize_targets.buffer_action.(mean|std)
        action_out.(mean|std)    unnormalize_outputs.buffer_action.(mean|std)
        """)
    },
)


_LAST = (
    *("vlm.norm", "expert.norm", "expert.unused_head"),
    *("heads.action_out", "normalizer.action_out"),
)


def _openpi(prefix: str) -> Placed:
    paligemma = f"{prefix}paligemma_with_expert.paligemma."
    expert = f"{prefix}paligemma_with_expert.gemma_expert."
    table = (("embed.weight", f"{paligemma}lm_head.weight"),)
    second = (("embed.weight", f"{paligemma}model.language_model.embed_tokens.weight"),)
    return {
        "vision": f"{paligemma}model.vision_tower.vision_model.",
        "projector": f"{paligemma}model.multi_modal_projector.linear.",
        "vlm": Mount(f"{paligemma}model.language_model.", moved=table, also=second),
        "expert": Mount(f"{expert}model.", moved=(("unused_head.weight", f"{expert}lm_head.weight"),)),
        "heads": prefix,
    }


def _old_lerobot() -> Placed:
    paligemma = "model.paligemma_with_expert.paligemma."
    table = (("embed.weight", f"{paligemma}language_model.lm_head.weight"),)
    second = (("embed.weight", f"{paligemma}language_model.model.embed_tokens.weight"),)
    return {
        **_openpi("model."),
        "vision": f"{paligemma}vision_tower.vision_model.",
        "projector": f"{paligemma}multi_modal_projector.linear.",
        "vlm": Mount(f"{paligemma}language_model.model.", moved=table, also=second),
        "normalizer": "",
    }


def _transformers() -> Placed:
    return {
        "vision": "model.vlm.vision_tower.",
        "projector": "model.vlm.multi_modal_projector.linear.",
        "vlm": "model.vlm.language_model.",
        "expert": Mount("model.dit.", moved=(("unused_head.weight", "model.dit.embed_tokens.weight"),)),
        "heads": Mount("", "transformers"),
    }


def _fresh_transformers() -> Placed:
    paligemma = "paligemma_with_expert.paligemma.model."
    return {
        **_openpi(""),
        "vision": f"{paligemma}vision_tower.",
        "vlm": f"{paligemma}language_model.model.",
    }


_OPENPI = layout(
    "openpi",
    _openpi(""),
    note="openpi's converter and the hub; the token table is `lm_head`",
    dialect=OPENPI,
    container=ONE_FILE,
    readers=("openpi",),
)
_LEROBOT = layout(
    "lerobot",
    _openpi("model."),
    note="lerobot 0.4 and later",
    dialect=LEROBOT,
    container=ONE_FILE,
    readers=("lerobot>=0.4,<0.6",),
    doubled_for=("lerobot<0.5",),
)
_LEROBOT_OLD = layout(
    "lerobot-0.3",
    _old_lerobot(),
    note="lerobot 0.1-0.3, with normalisation buffers",
    dialect=LEROBOT,
    container=ONE_FILE,
    untried=("lerobot<0.4",),
)

PI0_LAYOUTS: tuple[Layout, ...] = (
    _OPENPI,
    _LEROBOT,
    _LEROBOT_OLD,
    layout(
        "transformers",
        _transformers(),
        note="in memory in transformers 5.23 (PI0ForConditionalGeneration)",
        dialect=TRANSFORMERS,
        readers=NEW_READERS,
        in_memory=True,
    ),
    layout(
        "transformers-5.23",
        _fresh_transformers(),
        writable=False,
        note="save_pretrained of transformers 5.23 for a model not loaded from a file: mixed prefixes",
        dialect=TRANSFORMERS,
    ),
)
PI05_LAYOUTS: tuple[Layout, ...] = (
    _OPENPI,
    _LEROBOT,
    _LEROBOT_OLD,
    layout(
        "transformers",
        _transformers(),
        writable=False,
        note="by analogy with pi0: transformers 5.23 has no pi0.5 model, nothing writes or reads this yet",
    ),
)

_JOINTS = """
projector.d_in = vision.d_vision
projector.d_out = vlm.d_model
expert.vocab = vlm.vocab
expert.layers = vlm.layers
expert.q_heads = vlm.q_heads
expert.kv_heads = vlm.kv_heads
expert.head_dim = vlm.head_dim
heads.d_expert = expert.d_model
"""

_CONFIG = {
    "vision": ("vision", "vlm_config.vision_config", "vision_config"),
    "projector": ("", "vlm_config"),
    "vlm": ("paligemma", "vlm_config.text_config", ""),
    "expert": ("action_expert", "dit_config"),
    "heads": ("",),
}


def _sizes(extra: dict[str, int]) -> dict[str, dict[str, int | str]]:
    return {
        "base": {
            **scoped("vision", SIGLIP_SIZES["so400m-patch14-224"]),
            **scoped("vlm", GEMMA_SIZES["gemma_2b"]),
            **scoped("expert", GEMMA_EXPERT_SIZES["gemma_300m"]),
            "heads.d_action": 32,
            **extra,
        }
    }


# openpi@15a9616 gemma_pytorch.py:to_bfloat16_for_selected_params
_FLOAT32 = (
    "vision.patch_embed.*",
    "vision.pos_embed.*",
    "vlm.blocks.*.norm?.*",
    "vlm.norm.*",
    "expert.blocks.*.norm?.*",
    "expert.norm.*",
    "heads.*",
    "normalizer.*",
)


def _family(id: str, title: str, expert: Part, heads: Part, **rest: object) -> Family:
    return Family(
        pipeline=Pipeline(("vlm", "expert"), _LAST),
        id=id,
        title=title,
        parts={
            "vision": (SIGLIP,),
            "projector": (LINEAR,),
            "vlm": (GEMMA,),
            "expert": (expert,),
            "heads": (heads,),
            "normalizer": (NORMALIZER,),
        },
        optional=("normalizer",),
        config=ConfigKeys(
            model_types=(id,),
            roots=_CONFIG,
            presets={"vlm": "paligemma_variant", "expert": "action_expert_variant"},
        ),
        float32=_FLOAT32,
        settings=_IMAGES,
        sources=(
            "arXiv:2410.24164",
            "arXiv:2504.16054",
            "openpi@15a9616 pi0_pytorch.py",
            "transformers@5.23.0 modeling_pi0.py",
        ),
        **rest,  # type: ignore[arg-type]
    )


PI0_FAMILY = _family(
    "pi0",
    "pi0",
    GEMMA_EXPERT,
    PI0_HEADS,
    layouts=PI0_LAYOUTS,
    joints=_JOINTS,
    sizes=_sizes({"heads.d_state": 32}),
    model="dovetail.models.policies.pi0:Pi0",
    inputs="dovetail.inputs.policy:PolicyInputs",
    prompt=Prompt(tail="\n", begin="bos", clean="one_line", max_tokens=48),
)
PI05_FAMILY = _family(
    "pi05",
    "pi0.5",
    GEMMA_ADA_EXPERT,
    PI05_HEADS,
    layouts=PI05_LAYOUTS,
    joints=_JOINTS + "expert.d_cond = expert.d_model",
    sizes=_sizes({}),
    model="dovetail.models.policies.pi05:Pi05",
    inputs="dovetail.inputs.policy:PolicyInputs",
    prompt=Prompt("Task: {prompt}, State: {state};\nAction: ", begin="bos", clean="one_line", max_tokens=200),
)
