"""Sound models of families that dovetail does not know, written by transformers: called unknown, not damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

import dovetail
from dovetail.errors import CheckpointError
from tiny_models import TEXT, VISION, decoder, qwen2_vl

pytestmark = pytest.mark.filterwarnings("ignore")

Build = Callable[[], Any]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 20}
LATENT = EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1, "num_key_value_heads": 4}
LATENT |= {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
LATENT |= {"v_head_dim": 8, "n_group": 1, "topk_group": 1}


def named(config: str, model: str, **values: Any) -> Build:
    """A model of a class that `decoder` does not name, or without the keys that it gives."""
    return lambda: getattr(transformers, model)(getattr(transformers, f"{config}Config")(**values))


def internvl() -> Any:
    vision = {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}
    config = transformers.InternVLConfig(text_config={**TEXT, "model_type": "qwen2"}, vision_config=vision)
    return transformers.InternVLForConditionalGeneration(config)


PLAIN = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
SAME = "every tensor has its place in {}, but names and shapes do not show whether it computes the same"
ALL = "`model.layers.*` ({} tensors), `lm_head.weight`, `model.embed_tokens.weight`, `model.norm.weight`"
TIED = "`model.layers.*` ({} tensors), `model.embed_tokens.weight`, `model.norm.weight`"
UNKNOWN: dict[str, tuple[Build, str]] = {
    # model_type: builder, what the first sentence says after the model_type
    "gemma3_text": (
        named("Gemma3Text", "Gemma3ForCausalLM", **TEXT, head_dim=12),
        ": seen: 3 layers under `model.layers`, norms on q and k (`k_norm`), norms behind attention or MLP "
        f"(`post_feedforward_layernorm`); nothing known fits {TIED.format(39)}",
    ),
    "granite": (decoder("Granite"), "; " + SAME.format("llama, mistral, smollm3 or gemma")),
    "seed_oss": (decoder("SeedOss", head_dim=8), "; " + SAME.format("qwen2")),
    "olmo": (
        decoder("Olmo"),
        ": seen: 3 layers under `model.layers`; nothing known fits `model.layers.*` (21 tensors), "
        "`lm_head.weight`, `model.embed_tokens.weight`",
    ),
    "phi": (
        decoder("Phi"),
        ": seen: 3 layers under `model.layers`, biases in the attention (`dense`); nothing known fits "
        "`model.layers.*` (42 tensors), `lm_head.*` (2 tensors), `model.final_layernorm.*` (2 tensors), "
        "`model.embed_tokens.weight`",
    ),
    "mixtral": (
        decoder("Mixtral", num_local_experts=4),
        ": seen: 3 layers under `model.layers`, a mixture of 4 experts; nothing known fits " + ALL.format(57),
    ),
    "qwen2_moe": (
        decoder("Qwen2Moe", num_experts=4, shared_expert_intermediate_size=24, **EXPERTS),
        ": seen: 3 layers under `model.layers`, a mixture of 4 experts, shared experts, biases in the "
        "attention (`k_proj`); nothing known fits " + ALL.format(78),
    ),
    "granitemoe": (
        decoder("GraniteMoe", num_local_experts=4, num_experts_per_tok=2),
        ": seen: 3 layers under `model.layers`, a mixture of 4 experts; nothing known fits " + ALL.format(27),
    ),
    "deepseek_v3": (
        decoder("DeepseekV3", **LATENT),
        ": seen: 3 layers under `model.layers`, a mixture of 4 experts, shared experts, multi-head latent "
        "attention (MLA); nothing known fits " + ALL.format(64),
    ),
    "gpt_neox": (
        named("GPTNeoX", "GPTNeoXForCausalLM", **PLAIN),
        ": seen: 3 layers under `gpt_neox.layers`, q, k and v in one matrix (`query_key_value`), biases in "
        "the attention (`dense`); nothing known fits `gpt_neox.layers.*` (36 tensors), "
        "`gpt_neox.final_layer_norm.*` (2 tensors), `embed_out.weight`, `gpt_neox.embed_in.weight`",
    ),
    "internvl": (
        internvl,
        ": the decoder fits qwen2 under `language_model.model.` (38 tensors); seen in the rest: 2 layers "
        "under `vision_tower.encoder.layer`; nothing known fits `vision_tower.encoder.layer.*` (30 tensors), "
        "`multi_modal_projector.*` (6 tensors), `vision_tower.embeddings.*` (4 tensors)",
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_sound_model_that_is_not_known_is_unknown(kind: str, tmp_path: Path) -> None:
    build, said = UNKNOWN[kind]
    build().save_pretrained(tmp_path)
    report = dovetail.validate(tmp_path)
    assert (report.family, report.is_whole, report.candidates) == (None, False, ())
    assert [(f.code, f.severity, f.message) for f in report.findings] == [
        ("unknown-family", "error", f"config.json says `{kind}`, which dovetail does not know{said}")
    ]
    assert report.title == f"unknown: config.json says `{kind}`, which dovetail does not know"


def test_t5_is_unknown_and_its_parts_are_seen(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 56, "num_layers": 2, "num_heads": 4, "vocab_size": 97}
    named("T5", "T5ForConditionalGeneration", **sizes)().save_pretrained(tmp_path)
    (finding,) = dovetail.validate(tmp_path).findings
    begin = "config.json says `t5`, which dovetail does not know: seen: 2 layers under `decoder.block`, "
    assert finding.message.startswith(begin + "2 layers under `encoder.block`, cross-attention")


@pytest.mark.parametrize(
    ("config", "changes"), [("Granite", {}), ("Gemma3Text", {"head_dim": 12}), ("Olmo2", {})]
)
def test_with_and_without_a_head_it_is_the_same_model(
    config: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    titles = set()
    for model in (f"{config.removesuffix('Text')}ForCausalLM", f"{config}Model"):
        named(config, model, **TEXT, **changes)().save_pretrained(tmp_path / model)
        report = dovetail.validate(tmp_path / model)
        assert [finding.code for finding in report.findings] == ["unknown-family"]
        titles.add(report.title)
    assert len(titles) == 1


def test_every_verb_says_what_validate_says(tmp_path: Path) -> None:
    decoder("Olmo")().save_pretrained(tmp_path / "olmo")
    path = tmp_path / "olmo"
    said = dovetail.validate(path).findings[0].message
    verbs: list[Callable[[], Any]] = [
        lambda: dovetail.load(path),
        lambda: dovetail.load_stage(path, range(1)),
        lambda: dovetail.load_inputs(path),
        lambda: dovetail.convert(path, tmp_path / "out", to="hf"),
        lambda: dovetail.fingerprint(path),
    ]
    for verb in verbs:
        with pytest.raises(CheckpointError) as caught:
            verb()
        assert caught.value.message == said


def test_a_model_that_its_config_names_is_that_model_whatever_it_lacks(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    qwen2_vl().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["visual.blocks.1.norm1.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    report = dovetail.validate(tmp_path)
    assert (report.family, report.layout, report.is_whole) == ("qwen2_vl", "hf", False)
    total = len(tensors) + 1
    assert report.title == f"Qwen2-VL, 1 of {total} tensors missing"
    assert [f.message for f in report.findings if f.severity == "error"] == [
        f"Qwen2-VL, 1 of {total} tensors missing (config.json says `qwen2_vl`)",
        "1 of 25 tensors of vision is missing: `visual.blocks.1.norm1.bias`",
    ]
    with pytest.raises(CheckpointError, match=r"^the checkpoint is not whole: Qwen2-VL, 1 of "):
        dovetail.load(tmp_path)
    gone = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual.")}
    save_file(gone, tmp_path / "model.safetensors")
    report = dovetail.validate(tmp_path)
    assert (report.family, report.title) == ("qwen2_vl", "Qwen2-VL, all of vision and merger missing")


@pytest.mark.parametrize(("config", "without"), [("Llama", None), ("Qwen3", "qwen3")])
def test_biases_in_the_attention_do_not_make_it_qwen2(
    config: str, without: str | None, tmp_path: Path
) -> None:
    decoder(config, attention_bias=True, head_dim=8)().save_pretrained(tmp_path)
    report = dovetail.validate(tmp_path)
    assert (report.family, report.is_whole) == (config.lower(), True)
    (tmp_path / "config.json").unlink()
    report = dovetail.validate(tmp_path)
    assert report.family == without
    if without is None:
        assert "fit llama and smollm3 and gemma alike" in report.findings[0].message


NO_CONFIG = {
    # without its config: what the first sentence says, and whether it sends anybody for files
    "Gemma3Text": "all of qwen3/hf is here, and 6 tensors inside its layers fit nothing in it: another model, or",
    "Gemma2": "all of llama, mistral, smollm3 or gemma is here, and 6 tensors inside its layers fit nothing in it: ",
    "Olmo": "nothing names it, and not all of llama, mistral, smollm3 or gemma is here: 7 of 30 tensors missing",
    "Starcoder2": "nothing names it, and not all of llama, smollm3 or gemma is here: 9 of 41 tensors missing; 19 ",
}


@pytest.mark.parametrize("kind", NO_CONFIG)
def test_what_nothing_names_is_told_by_what_it_has(kind: str, tmp_path: Path) -> None:
    changes = {"head_dim": 12} if "Gemma" in kind else {}
    model = f"{kind.removesuffix('Text')}ForCausalLM"
    named(kind, model, **TEXT, **changes)().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    report = dovetail.validate(tmp_path)
    assert (report.family, report.candidates) == (None, ())
    assert report.findings[0].message.startswith(NO_CONFIG[kind])
    assert not any("find the file" in (finding.hint or "") for finding in report.findings)
