"""Layouts that several families share: what the versions of transformers made of the same names.

Until 4.51 a model kept its parts side by side; 4.52 put all but the head below `model.` in memory and
renamed on the way to disk; 5.4 to 5.5.4 forgot part of the renaming; 5.23 dropped the `vision_model.` of
towers. Saved and read back in six versions each.
"""

from dovetail.declare.family import LITGPT, Layout, Mount, Placed, layout

IN_MEMORY = "in memory since transformers 4.52: torch.save, FSDP, DeepSpeed, merged adapters"
VLLM = "vllm>=0.32,<1"
NEW_READERS = ("transformers>=5.23,<6",)  # which reads the names of every version before it


def hub_readers(since: str) -> tuple[str, ...]:
    """Who opens what is on the hub; `since` is the first version of transformers that has the family."""
    return f"transformers>={since},<6", VLLM


def llava_layouts(
    *,
    projector: str = "multi_modal_projector.",
    newline: bool = False,
    since: str,
    hub: str = "llava-hf on the hub",
    others: tuple[Layout, ...] = (),
) -> tuple[Layout, ...]:
    """The layouts of models of a tower, a projector and a language model; `others` come after the first.

    `since` is the first version of transformers that has the family, `hub` who publishes it.
    """

    def placed(vision: str, body: str, text: str, head: str) -> Placed:
        between = {"projector": body + projector, **({"newline": body} if newline else {})}
        return {"vision": vision, **between, "text": text, "head": head}

    return (
        layout(
            "hf",
            placed("vision_tower.vision_model.", "", "language_model.model.", "language_model.lm_head."),
            note=f"{hub}; save_pretrained of transformers {since}-5.0",
            readers=hub_readers("4.45"),  # the first that was measured
        ),
        *others,
        layout(
            "hf-4.52",
            placed("model.vision_tower.vision_model.", "model.", "model.language_model.", "lm_head."),
            note="in memory in transformers 4.52-5.5",
            readers=NEW_READERS,
        ),
        layout(
            "hf-5.5.4",
            placed(
                "model.vision_tower.vision_model.",
                "model.",
                "model.language_model.model.",
                "language_model.lm_head.",
            ),
            writable=False,
            note="mixed prefixes, a save bug of transformers 5.5.4; 4.57 leaves 20-64 tensors of it random",
        ),
        layout(
            "hf-5.23",
            placed("vision_tower.", "", "language_model.model.", "language_model.lm_head."),
            note="save_pretrained of transformers 5.23 for a model not loaded from an older file",
            readers=NEW_READERS,
        ),
        layout(
            "hf-5.23-mem",
            placed("model.vision_tower.", "model.", "model.language_model.", "lm_head."),
            note="in memory in transformers 5.23",
            readers=NEW_READERS,
            in_memory=True,
        ),
    )


def qwen_vl_layouts(*, saved: str, bug: str, since: str) -> tuple[Layout, ...]:
    """The layouts of Qwen2-VL and Qwen2.5-VL. `saved` are the versions that write the first of them, `bug`
    those that mix prefixes, `since` the first that reads it."""

    def placed(vision: str, text: str) -> Placed:
        return {"vision": vision, "merger": f"{vision}merger.", "text": text, "head": "lm_head."}

    return (
        layout(
            "hf",
            placed("visual.", "model."),
            note=f"the hub; save_pretrained of transformers {saved}",
            readers=hub_readers(since),
        ),
        layout(
            "hf-4.52",
            placed("model.visual.", "model.language_model."),
            note=IN_MEMORY,
            readers=NEW_READERS,
            in_memory=True,
        ),
        layout(
            "hf-5.5.4",
            placed("model.visual.", "model."),
            writable=False,
            note=f"mixed prefixes, a save bug of transformers {bug}",
        ),
        bare_qwen_vl(vision="visual.", merger="visual.merger."),
    )


def bare_qwen_vl(**beside: str) -> Layout:
    """The layout of a Qwen-VL without its head, as `Qwen2VLModel` and the like save themselves."""
    note = "the bare model that transformers 4.52-5.23 has in memory and 5.23 saves (`Qwen2VLModel`): no head"
    return layout("hf-base", {**beside, "text": "language_model."}, note=note)


_LITGPT_NAMES = {
    "litgpt": "LitGPT >= 0.5 names, attn.qkv = q | k | v; vision as on the hub",
    "litgpt-legacy": "LitGPT < 0.5 names, attn.attn interleaved by kv group; vision as on the hub",
    "litgpt-fork": "a fork of MDI-LLM (LitGPT over several machines): q_proj, c_proj, ln_1",
}


def litgpt_layout(naming: str, beside: Placed) -> Layout:
    """A layout of LitGPT for a model that has other parts beside its decoder, named as on the hub."""
    return layout(
        naming,
        {"text": Mount("transformer.", naming), "head": "lm_head.", **beside},
        stores_ties=True,
        container=LITGPT,
        note=_LITGPT_NAMES[naming],
    )
