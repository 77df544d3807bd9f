"""`convert --for READER`, and configs that the readers of a layout open: transformers 5, LitGPT and timm here.

What needs another version of a library is in `tests/engines`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import save_file

import dovetail
from commands import dovetail as command
from dovetail.declare.reader import name_of, parse_asked, parse_version
from dovetail.edit.reading import reading
from dovetail.edit.side_files.rope_spelling import with_both_spellings, with_old_spelling
from dovetail.edit.side_files.transformers_4 import for_transformers_4
from dovetail.errors import UsageError
from dovetail.families import built_in, family
from dovetail.families.readers import READERS
from files import MODELS
from stand_in import import_timm
from tiny_models import decoder, llava_onevision, pi0, qwen2_vl

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(build: Callable[[], Any]) -> Any:
    """A model with no parameter left at a value that an initialiser gives."""
    torch.manual_seed(7)
    model = build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() < 2), std=0.2)
    return model


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


# -- which layout a reader reads

READ = {
    # what --for says: family -> layout, or nothing where it is refused
    "transformers==4.57": {"qwen2": "hf", "qwen2_vl": "hf", "paligemma": "hf", "siglip": "hf", "pi0": None},
    "transformers==5.23": {"qwen3": "hf", "llava": "hf", "pi0": "transformers", "pi05": None},
    "transformers": {"pi0": "transformers", "panovlm": None},
    "transformers==4.45": {"qwen2_vl": "hf", "qwen3_vl": None},
    "vllm==0.32": {"qwen2": "hf", "qwen2_vl": "hf", "siglip": None},
    "litgpt": {"llama": "litgpt", "gemma": "litgpt", "qwen2_vl": None, "smollm3": None},
    "lerobot==0.4": {"pi0": "lerobot", "pi05": "lerobot", "llava": None},
    "lerobot==0.3": {"pi0": None},
    "openpi": {"pi0": "openpi", "pi05": "openpi"},
    "llava": {"llava": "llava", "llava_onevision": "lmms", "qwen2": None},
    "timm==1.0.31": {"siglip": "timm", "dinov2": "timm", "llava": None},
}


@pytest.mark.parametrize("text", READ)
def test_a_reader_has_a_layout_or_is_refused(text: str) -> None:
    for id, expected in READ[text].items():
        if expected is not None:
            assert reading(family(id), text).layout.id == expected
            continue
        with pytest.raises(UsageError, match=f"{id} has no layout that {parse_asked(text).name}.* reads"):
            reading(family(id), text)


def test_every_layout_names_readers_that_there_are_and_can_be_written_for_them() -> None:
    known = {reader.name: reader for reader in READERS}
    seen = set()
    for one in built_in():
        for layout in one.layouts:
            for text in layout.readers:
                assert layout.is_writable, (one.id, layout.id)
                assert layout.container.kind in known[name_of(text)].formats
                seen.add(name_of(text))
    assert seen == known.keys()


def test_names_that_nobody_tried_are_no_reader_and_are_named() -> None:
    for text, id, layout in (
        ("litgpt==0.4", "qwen2", "litgpt-legacy"),
        ("lerobot==0.3", "pi0", "lerobot-0.3"),
    ):
        with pytest.raises(UsageError) as caught:
            reading(family(id), text)
        assert f"--to {layout} writes its names, but no test here runs such a version" in str(caught.value)


@pytest.mark.parametrize(("kind", "is_built"), [("qwen3", False), ("gemma", False), ("llama", True)])
def test_what_vllm_does_not_build_is_refused(kind: str, is_built: bool, tmp_path: Path) -> None:
    """vllm@0.32.0: Gemma's and Qwen3's attention without biases on the output, Llama's with them."""
    small = {"text.layers": 2, "text.vocab": 64, "text.d_model": 64, "text.d_ff": 96, "text.q_heads": 4}
    small |= {"text.kv_heads": 2, "text.head_dim": 16}
    dovetail.make(kind, tmp_path / "model", set={**small, "text": f"{kind}+attention_bias"})
    if is_built:
        dovetail.convert(tmp_path / "model", tmp_path / "out", for_="vllm")
        return
    with pytest.raises(
        UsageError, match=f"vllm 0.32.0 cannot build this model: it has no attention_bias in a {kind}"
    ):
        dovetail.convert(tmp_path / "model", tmp_path / "out", for_="vllm")


def test_versions_are_numbers() -> None:
    assert [parse_version(version) for one in READERS for version in one.versions]
    with pytest.raises(UsageError, match="names no reader"):
        parse_asked("transformers>=4")


REFUSED = {
    # what the command line says after CKPT OUT, and the first line of the answer
    "unknown reader": ("--for transformer", "no reader is called `transformer`; did you mean transformers?"),
    "version that nothing is known of": (
        "--for transformers==3.5",
        "has no layout that transformers 3.5 reads",
    ),
    "no layout": ("--for lerobot", "qwen2 has no layout that lerobot 0.5.1 reads"),
    "other layout": (
        "--for litgpt --to hf",
        "litgpt 0.5.13 does not read layout hf of qwen2",
    ),
    "other format": ("--for litgpt --format safetensors", "litgpt does not read safetensors files"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_names_what_there_is(case: str, tmp_path: Path) -> None:
    options, message = REFUSED[case]
    dovetail.make("qwen2", tmp_path / "made", set=MODELS["qwen2"][0])
    answer = command("convert", tmp_path / "made", tmp_path / "out", *options.split())
    assert (answer.code, (tmp_path / "out").exists()) == (2, False)
    assert message in answer.err
    assert "hint: " in answer.err


def test_a_part_that_would_begin_at_random_is_refused(tmp_path: Path) -> None:
    sizes = MODELS["llava_onevision"][0]
    dovetail.make("llava_onevision", tmp_path / "made", set=sizes)
    with pytest.raises(UsageError, match="would begin vision at random"):
        dovetail.plan_convert(tmp_path / "made", for_="transformers", without="vision")
    with pytest.raises(UsageError, match="its tower is loaded by name, google/siglip-so400m-patch14-384"):
        dovetail.plan_convert(tmp_path / "made", for_="llava")
    changed = {**config(tmp_path / "made"), "model_type": "llava_qwen_with_alternating_attn"}
    (tmp_path / "made" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="does not compute the variant `alternating`"):
        dovetail.plan_convert(tmp_path / "made", for_="transformers")


def test_sizes_that_only_dovetail_builds_are_refused_for_lerobot(tmp_path: Path) -> None:
    dovetail.make("pi0", tmp_path / "made", set=MODELS["pi0"][0])
    for name in ("lerobot", "openpi"):
        with pytest.raises(UsageError, match="decoders of gemma_300m, gemma_2b are all that it builds"):
            dovetail.plan_convert(tmp_path / "made", for_=name)
    dovetail.make("pi0", tmp_path / "base", sparse=True)
    for version, more in (("0.4", 1), ("0.5", 0)):  # 0.4 looks for both names of the table of tokens
        (output,) = dovetail.plan_convert(tmp_path / "base", for_=f"lerobot=={version}").outputs
        (file,) = output.files  # lerobot opens one file and takes random weights where it is not there
        assert (output.layout, file.name, len(file.tensors)) == ("lerobot", "model.safetensors", 777 + more)


# -- configs


def test_both_spellings_of_rotary_positions_say_the_same() -> None:
    new = {
        "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0, "mrope_section": [1]}}
    }
    old = with_old_spelling(new)["text_config"]
    assert (old["rope_theta"], old["rope_scaling"]) == (7.0, {"rope_type": "default", "mrope_section": [1]})
    assert with_old_spelling({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}) == {
        "rope_parameters": {"rope_type": "default", "rope_theta": 7.0},
        "rope_theta": 7.0,
    }
    kept = {"rope_theta": 7.0, "rope_scaling": {"type": "mrope", "mrope_section": [1]}}
    both = with_both_spellings(kept)
    assert {key: both[key] for key in kept} == kept
    assert both["rope_parameters"] == {"rope_type": "default", "rope_theta": 7.0, "mrope_section": [1]}
    strange = {"vision_config": {"rope_parameters": {"rope_type": "axial", "rope_theta": 7.0}}}
    assert with_both_spellings(strange) == strange


@pytest.mark.parametrize("build", [qwen2_vl, llava_onevision, decoder("Llama")])
def test_a_config_of_transformers_5_says_what_4_reads(build: Callable[[], Any], tmp_path: Path) -> None:
    """And transformers 5 reads the same as before."""
    model = build()
    model.save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "out", for_="transformers==4.57")
    written, before = config(tmp_path / "out"), config(tmp_path / "saved")
    for section in (written, written.get("text_config", {})):
        if "rope_parameters" in section:
            assert section["rope_theta"] == section["rope_parameters"]["rope_theta"]
    if "text_config" in written:
        flag = written["text_config"]["tie_word_embeddings"]
        assert flag == written["tie_word_embeddings"] == before["tie_word_embeddings"]
    again = type(model.config).from_pretrained(tmp_path / "out").to_dict()
    expected = type(model.config).from_pretrained(tmp_path / "saved").to_dict()
    assert _without(again, "tie_word_embeddings") == _without(expected, "tie_word_embeddings")


def _without(values: Any, *keys: str) -> Any:
    """A config without keys that stand once more below, and without where it was read from."""
    if not isinstance(values, dict):
        return values
    return {
        key: _without(one, *keys)
        for key, one in values.items()
        if key not in (*keys, "_name_or_path", "rope_theta")
    }


def test_open_sizes_of_a_config_are_asked_for_at_once(tmp_path: Path) -> None:
    dovetail.make("qwen2_vl", tmp_path / "made", set=MODELS["qwen2_vl"][0])
    (tmp_path / "made" / "config.json").unlink()
    for layout in ("hf", "litgpt"):
        with pytest.raises(UsageError, match=r"has to say .*text.q_heads, .*nothing does") as caught:
            dovetail.plan_convert(tmp_path / "made", to=layout)
        for name in ("text.q_heads", "text.kv_heads", "text.head_dim"):
            assert f"--set {name}=NUMBER" in str(caught.value.hint)
    sizes = {"text.q_heads": 4, "text.kv_heads": 2, "text.head_dim": 7, "vision.heads": 6}
    plan = dovetail.plan_convert(tmp_path / "made", to="hf", set=sizes)
    written = json.loads(plan.outputs[0].side_files["config.json"])
    assert (written["num_attention_heads"], written["vision_config"]["num_heads"]) == (4, 6)


def test_what_is_set_stands_in_the_config_that_is_carried(tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "made", set=MODELS["qwen2"][0])
    plan = dovetail.plan_convert(tmp_path / "made", to="hf", set={"text.rope_theta": 5.0})
    assert json.loads(plan.outputs[0].side_files["config.json"])["rope_theta"] == 5.0


# -- LitGPT


@pytest.mark.parametrize(
    ("kind", "changes", "marks"),
    [
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}, [0, 1, 1]),
        ("Mistral", {"sliding_window": 4}, [1, 1, 1]),
        ("Mistral", {"sliding_window": None}, None),
    ],
)
def test_litgpt_looks_through_the_same_window(
    kind: str, changes: dict[str, Any], marks: list[int] | None, tmp_path: Path
) -> None:
    from litgpt.config import Config
    from litgpt.model import GPT

    model = trained(decoder(kind, max_position_embeddings=64, **changes))
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "lit", for_="litgpt")
    said = Config.from_file(tmp_path / "lit" / "model_config.yaml")
    assert (said.sliding_window_indices, said.block_size) == (marks, 64)
    words = torch.arange(1, 30)[None]
    theirs = GPT(said).eval()
    theirs.load_state_dict(torch.load(tmp_path / "lit" / "lit_model.pth"), strict=True)
    with torch.no_grad():
        expected = model(words).logits
        torch.testing.assert_close(theirs(words), expected, rtol=1e-5, atol=1e-5)
    for name in ("config.json", "generation_config.json", "dovetail.json"):
        (tmp_path / "lit" / name).unlink()
    if kind == "Mistral" and marks:  # which LitGPT does not tell from Llama
        with pytest.raises(UsageError, match="sliding_window_size = 4, and llama has no sliding window"):
            dovetail.plan_convert(tmp_path / "lit", for_="transformers")
    as_ = "mistral" if kind == "Mistral" else None
    dovetail.convert(tmp_path / "lit", tmp_path / "back", for_="transformers", as_=as_)
    back = type(model).from_pretrained(tmp_path / "back", attn_implementation="eager")
    with torch.no_grad():
        assert torch.equal(back(words).logits, expected)


def test_litgpt_s_config_has_the_fields_of_the_fork_and_no_invented_reach(tmp_path: Path) -> None:
    model = qwen2_vl()
    model.config.text_config.max_position_embeddings = 77
    model.save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "lit", to="litgpt")
    said = yaml.safe_load((tmp_path / "lit" / "model_config.yaml").read_text())
    fork = {
        "vision_encoder_embed_dim": 24,
        "vision_encoder_depth": 2,
        "vision_encoder_num_heads": 3,
        "vision_patch_size": 14,
        "vision_start_token_id": 92,
        "vision_end_token_id": 93,
        "image_token_id": 90,
        "use_mrope": True,
    }
    assert {key: said.get(key) for key in fork} == fork
    assert said["block_size"] == 77
    without = dovetail.plan_convert(tmp_path / "saved", to="litgpt", without=("vision", "merger"))
    alone = yaml.safe_load(without.outputs[0].side_files["model_config.yaml"])
    assert not alone.keys() & fork.keys()  # LitGPT's own Config refuses what it does not know


def test_a_reach_that_nothing_says_is_an_assumption(tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "made", set=MODELS["qwen2"][0])
    (tmp_path / "made" / "config.json").unlink()
    given = {"text.q_heads": 4, "text.kv_heads": 2, "text.head_dim": 7}
    plan = dovetail.plan_convert(tmp_path / "made", for_="litgpt", set=given)
    assert "text.max_positions = 32768 (qwen2 convention)" in plan.assumed
    plan = dovetail.plan_convert(tmp_path / "made", for_="litgpt", set={**given, "text.max_positions": 99})
    assert yaml.safe_load(plan.outputs[0].side_files["model_config.yaml"])["block_size"] == 99


# -- pi0


def test_pi0_of_transformers_is_written_for_lerobot_and_comes_back(tmp_path: Path) -> None:
    model = trained(pi0)
    model.save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "lerobot", to="lerobot")
    said = config(tmp_path / "lerobot")
    assert (said["type"], said["chunk_size"], said["max_state_dim"], said["max_action_dim"]) == (
        "pi0",
        50,
        5,
        7,
    )
    assert "model_type" not in said
    dovetail.convert(
        tmp_path / "lerobot", tmp_path / "back", for_="transformers", set={"heads.action_horizon": 9}
    )
    loaded, found = transformers.PI0ForConditionalGeneration.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert {key: names for key, names in found.items() if names} == {}
    assert loaded.config.chunk_size == 9
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())


def test_pi0_of_published_sizes_is_named_as_openpi_and_lerobot_name_it(tmp_path: Path) -> None:
    dovetail.make("pi05", tmp_path / "made", sparse=True)
    assert config(tmp_path / "made") == {
        "action_dim": 32,
        "action_horizon": 50,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "precision": "bfloat16",
    }
    plan = dovetail.plan_convert(tmp_path / "made", for_="lerobot")
    assert json.loads(plan.outputs[0].side_files["config.json"]) == {
        "type": "pi05",
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": "bfloat16",
        "chunk_size": 50,
        "n_action_steps": 50,
        "max_action_dim": 32,
        "min_period": 0.004,
        "max_period": 4.0,
        "image_resolution": [224, 224],
    }


# -- LLaVA


@pytest.mark.parametrize(
    ("id", "layout", "kind", "kept"),
    [
        (
            "llava",
            "llava",
            "llava_llama",
            {"mm_vision_select_feature": "patch", "mm_vision_select_layer": -2},
        ),
        ("llava_onevision", "lmms", "llava_qwen", {"mm_projector_type": "mlp2x_gelu"}),
    ],
)
def test_the_llava_projects_get_their_own_class_and_give_it_back(
    id: str, layout: str, kind: str, kept: dict[str, Any], tmp_path: Path
) -> None:
    dovetail.make(id, tmp_path / "made", set=MODELS[id][0])
    dovetail.convert(tmp_path / "made", tmp_path / "there", to=layout)
    said, before = config(tmp_path / "there"), config(tmp_path / "made")
    assert said["model_type"] == kind
    assert said["architectures"] != before["architectures"]
    assert kept.items() <= said.items()
    assert said["hidden_size"] == before["text_config"]["hidden_size"]
    dovetail.convert(tmp_path / "there", tmp_path / "back", to="hf")
    after = config(tmp_path / "back")
    for key in ("model_type", "architectures", "vision_config", "vision_feature_select_strategy"):
        assert after[key] == before[key]


# -- timm

ARCHITECTURES = {
    # architecture -> what transformers calls its activation
    "vit_so400m_patch14_siglip_384": "gelu",
    "vit_so400m_patch16_siglip_384": "gelu_pytorch_tanh",
    "vit_so400m_patch14_siglip_gap_384": "gelu",
    "vit_large_patch14_reg4_dinov2": "",
    "vit_large_patch14_dinov2": "",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_tower_that_timm_saved_computes_the_same_elsewhere_and_back(name: str, tmp_path: Path) -> None:
    timm = import_timm()
    from timm.models._hub import save_for_hf

    sizes = {"depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 42, "patch_size": 14}
    tower = trained(lambda: timm.create_model(name, **sizes))
    save_for_hf(tower, tmp_path / "saved", safe_serialization=True)
    assert dovetail.inspect(tmp_path / "saved").config["vision.heads"].value == 3
    pixels = torch.randn(1, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, pooled = tower.forward_features(pixels), tower(pixels)
    source = tmp_path / "saved"
    if activation := ARCHITECTURES[name]:
        dovetail.convert(source, tmp_path / "hf", for_="transformers")
        source = tmp_path / "hf"
        assert config(source)["hidden_act"] == activation
        loaded, found = transformers.SiglipVisionModel.from_pretrained(source, output_loading_info=True)
        assert {key: names for key, names in found.items() if names} == {}
        with torch.no_grad():
            seen = loaded(pixels)
        torch.testing.assert_close(seen.last_hidden_state, features, rtol=1e-5, atol=1e-5)
        if "gap" not in name:
            torch.testing.assert_close(seen.pooler_output, pooled, rtol=1e-5, atol=1e-5)
    else:
        (source / "config.json").unlink()
    given = {} if activation else {"vision.heads": 3}
    dovetail.convert(source, tmp_path / "back", for_="timm", set=given)
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again.forward_features(pixels), features)
        assert torch.equal(again(pixels), pooled)


def test_the_head_count_of_a_bare_tower_is_asked_for(tmp_path: Path) -> None:
    tower = import_timm().create_model(
        "vit_so400m_patch14_siglip_384", depth=1, embed_dim=20, num_heads=5, img_size=28
    )
    save_file(tower.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"config.json has to say vision.heads, and nothing does"):
        dovetail.plan_convert(tmp_path / "model.safetensors", for_="transformers")


# -- files that go beside


def test_tokenizer_and_processor_of_transformers_5_are_named_as_4_knows_them() -> None:
    texts = {
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<image>"]}
        ).encode(),
        "processor_config.json": json.dumps(
            {"processor_class": "PaliGemmaProcessor", "image_processor": {"image_mean": [0.5] * 3}}
        ).encode(),
        "other.json": b"{}",
    }
    found = {name: json.loads(text) for name, text in for_transformers_4(texts).items()}
    assert found == {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": ["<image>"],
        },
        "processor_config.json": {"processor_class": "PaliGemmaProcessor"},
        "preprocessor_config.json": {"processor_class": "PaliGemmaProcessor", "image_mean": [0.5] * 3},
        "other.json": {},
    }
    untouched = {
        "tokenizer_config.json": b'{"tokenizer_class":  "Qwen2Tokenizer"}',
        "processor_config.json": b"{",
    }
    assert for_transformers_4(untouched) == untouched
