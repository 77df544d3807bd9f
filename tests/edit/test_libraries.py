"""What dovetail writes, opened by those who read it: transformers, LitGPT, torch, timm, safetensors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import dovetail
from dovetail.errors import UsageError
from dovetail.families import family
from files import MODELS
from stand_in import import_timm
from tiny_models import (
    TEXT,
    decoder,
    llava_onevision,
    paligemma,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    siglip,
    siglip_vision,
)

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


QWEN_IMAGE = {
    "input_ids": torch.tensor([[92, 90, 90, 90, 90, 93, 5, 6]]),
    "mm_token_type_ids": torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0]]),
    "pixel_values": image(16, 3 * 2 * 14 * 14),
    "image_grid_thw": torch.tensor([[1, 4, 4]]),
}
# builder, family, layout of the library, and an input that every part has a say in
LOADABLE: dict[str, tuple[Callable[[], torch.nn.Module], str, str, dict[str, torch.Tensor]]] = {
    "qwen2": (decoder("Qwen2", tie_word_embeddings=False), "qwen2", "hf", {"input_ids": WORDS}),
    "qwen2-tied": (decoder("Qwen2", tie_word_embeddings=True), "qwen2", "hf", {"input_ids": WORDS}),
    "qwen3": (decoder("Qwen3", head_dim=10), "qwen3", "hf", {"input_ids": WORDS}),
    "llama": (decoder("Llama"), "llama", "hf", {"input_ids": WORDS}),
    "gemma": (decoder("Gemma", head_dim=12), "gemma", "hf", {"input_ids": WORDS}),
    "qwen2_vl": (qwen2_vl, "qwen2_vl", "hf", QWEN_IMAGE),
    "qwen2_5_vl": (qwen2_5_vl, "qwen2_5_vl", "hf", QWEN_IMAGE),
    "qwen3_vl": (qwen3_vl, "qwen3_vl", "hf", QWEN_IMAGE),
    "paligemma": (
        paligemma,
        "paligemma",
        "hf-5.23",
        {
            "input_ids": torch.tensor([[96, 96, 96, 96, 1, 5, 6]]),
            "token_type_ids": torch.zeros(1, 7, dtype=torch.long),
            "pixel_values": image(1, 3, 28, 28),
        },
    ),
    "llava_onevision": (
        llava_onevision,
        "llava_onevision",
        "hf-5.23",
        {
            "input_ids": torch.tensor([[1, *[95] * 10, 5, 6]]),
            "pixel_values": image(1, 2, 3, 28, 28),
            "image_sizes": torch.tensor([[28, 28]]),
        },
    ),
    "siglip": (
        siglip,
        "siglip",
        "hf",
        {
            "input_ids": torch.tensor([[1, 5, 6, 7, 8, 2, 2, 2]]),
            "pixel_values": image(1, 3, 28, 28),
        },
    ),
    "siglip_vision": (siglip_vision, "siglip", "hf-5.23", {"pixel_values": image(1, 3, 28, 28)}),
}
HEADED = ("qwen2", "qwen3", "llama", "qwen2_vl", "qwen3_vl")  # with a head of their own
CASES = [
    pytest.param(name, layout.id, id=f"{name}-{layout.id}")
    for name, (_, id, _, _) in LOADABLE.items()
    for layout in family(id).layouts
    if layout.is_writable
    and not (name == "siglip" and layout.id != "hf")
    and not (name in HEADED and layout.id == "hf-base")  # which has no place for a head
]


def trained(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A model with no parameter left at a value that an initialiser gives."""
    torch.manual_seed(7)
    model = build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() < 2), std=0.2)
    return model


def answer(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        out = model(**inputs)
    names = ("logits", "logits_per_image", "last_hidden_state")
    return next(torch.as_tensor(getattr(out, name)) for name in names if hasattr(out, name))


def saved(name: str, tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    model = trained(LOADABLE[name][0])
    model.save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    return model, tmp_path / "saved"


def assert_loads(model: torch.nn.Module, folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    """The library finds every tensor, no other, and computes the same."""
    loaded, found = type(model).from_pretrained(folder, output_loading_info=True)  # type: ignore[attr-defined]
    assert {key: names for key, names in found.items() if names} == {}
    torch.testing.assert_close(answer(loaded.eval(), inputs), answer(model, inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_transformers_loads_what_went_through_another_layout(name: str, layout: str, tmp_path: Path) -> None:
    _, _, home, inputs = LOADABLE[name]
    model, folder = saved(name, tmp_path)
    dovetail.convert(folder, tmp_path / "there", to=layout)
    dovetail.convert(tmp_path / "there", tmp_path / "back", to=home)
    assert_loads(model, tmp_path / "back", inputs)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_config_that_was_lost_is_written_anew_from_the_certificate(
    name: str, layout: str, tmp_path: Path
) -> None:
    _, _, home, inputs = LOADABLE[name]
    model, folder = saved(name, tmp_path)
    dovetail.convert(folder, tmp_path / "there", to=layout)
    (tmp_path / "there" / "config.json").unlink()
    dovetail.convert(tmp_path / "there", tmp_path / "back", to=home)
    assert_loads(model, tmp_path / "back", inputs)
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "back")).__name__ in (
        type(model).__name__,
        type(model).__name__.replace("ForCausalLM", "Model").replace("ForConditionalGeneration", "Model"),
    )


@pytest.mark.parametrize("name", ["qwen2", "qwen2-tied", "qwen3", "llama", "gemma"])
def test_transformers_loads_what_was_litgpt_s_with_its_yaml_only(name: str, tmp_path: Path) -> None:
    model, folder = saved(name, tmp_path)
    dovetail.convert(folder, tmp_path / "there", to="litgpt")
    for file in ("config.json", "generation_config.json", "dovetail.json"):
        (tmp_path / "there" / file).unlink()
    dovetail.convert(tmp_path / "there", tmp_path / "back", to="hf")
    assert_loads(model, tmp_path / "back", {"input_ids": WORDS})


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paligemma", "llava_onevision", "qwen2", "llama"]
)
def test_transformers_loads_shards_with_their_index(name: str, tmp_path: Path) -> None:
    _, _, home, inputs = LOADABLE[name]
    model, folder = saved(name, tmp_path)
    dovetail.convert(folder, tmp_path / "out", to=home, max_shard_size=30_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    total, placed = 0, {}
    for shard in shards:
        with safe_open(tmp_path / "out" / shard, "pt") as file:
            placed |= dict.fromkeys(file.keys(), shard)
            total += sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    assert (index["weight_map"], index["metadata"]["total_size"]) == (placed, total)
    assert_loads(model, tmp_path / "out", inputs)


def test_transformers_loads_a_torch_file(tmp_path: Path) -> None:
    model, folder = saved("qwen3", tmp_path)
    dovetail.convert(folder, tmp_path / "out", format="pth")
    assert (tmp_path / "out" / "pytorch_model.bin").exists()
    assert_loads(model, tmp_path / "out", {"input_ids": WORDS})


def test_a_config_of_llava_next_is_written_anew_for_transformers(tmp_path: Path) -> None:
    model, folder = saved("llava_onevision", tmp_path)
    dovetail.convert(folder, tmp_path / "there", to="lmms")
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    (tmp_path / "there" / "config.json").write_text(json.dumps({**config, "model_type": "llava_qwen"}))
    dovetail.convert(tmp_path / "there", tmp_path / "back", to="hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "llava_onevision"
    assert_loads(model, tmp_path / "back", LOADABLE["llava_onevision"][3])


# -- LitGPT

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# LitGPT's name of a model of the same kind, the class of transformers, and what its config says
LITGPT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2": ("Qwen2.5-0.5B", "Qwen2", {"tie_word_embeddings": False}),
    "qwen2-tied": ("Qwen2.5-0.5B", "Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3-0.6B-Base", "Qwen3", {"head_dim": 10, "tie_word_embeddings": True}),
    "llama": ("Llama-3.2-1B", "Llama", {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "Llama-3.2-1B",
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    # not Gemma-2b, which LitGPT 0.5.13 takes for a Gemma 2 because its name begins like one
    "gemma": ("Gemma-7b", "Gemma", {"head_dim": 12}),
}


def converted_by_both(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.nn.Module, Any]:
    """A model saved by transformers, in LitGPT's layout as `ours` and, by its own converter, as `theirs`.

    Gives the model and LitGPT's config of ours.
    """
    from litgpt import config as litgpt_config
    from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint

    called, kind, changes = LITGPT[name]
    model = trained(decoder(kind, max_position_embeddings=64, **changes))
    model.save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    dovetail.convert(tmp_path / "saved", tmp_path / "ours", to="litgpt")
    config = litgpt_config.Config.from_file(tmp_path / "ours" / "model_config.yaml")
    published = next(one for one in litgpt_config.configs if one["name"] == called)
    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "intermediate_size": 56, "vocab_size": 97}
    heads = {"n_query_groups": config.n_query_groups, "head_size": config.head_size}
    monkeypatch.setitem(
        litgpt_config.name_to_config, called, {**published, **sizes, **heads, "padded_vocab_size": 97}
    )
    shutil.copytree(tmp_path / "saved", tmp_path / "theirs")
    convert_hf_checkpoint(tmp_path / "theirs", model_name=called)
    return model, config


@pytest.mark.parametrize("name", LITGPT)
def test_litgpt_computes_the_same_from_what_equals_its_own_conversion(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litgpt.model import GPT

    model, config = converted_by_both(name, tmp_path, monkeypatch)
    ours = torch.load(tmp_path / "ours" / "lit_model.pth", weights_only=True, mmap=True)
    theirs = torch.load(tmp_path / "theirs" / "lit_model.pth", weights_only=True, mmap=True)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    their_config = yaml.safe_load((tmp_path / "theirs" / "model_config.yaml").read_text())
    settled = {
        "name",
        "hf_config",
        "block_size",
        "padding_multiple",
        "rope_base",
        "norm_eps",
        "rope_adjustments",
    }
    differing = {key for key, value in their_config.items() if getattr(config, key) != value}
    assert differing <= settled

    litgpt = GPT(config).eval()
    litgpt.load_state_dict(ours, strict=True)
    words = torch.arange(1, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(litgpt(words), answer(model, {"input_ids": words}), rtol=1e-5, atol=1e-5)


def alone(tmp_path: Path, source: Path, *names: str) -> Path:
    """A new folder that holds these files of another and nothing else."""
    folder = tmp_path / f"only-{source.name}"
    folder.mkdir()
    for name in names:
        shutil.copy(source / name, folder / name)
    return folder


@pytest.mark.parametrize("name", LITGPT)
def test_what_litgpt_converts_is_read_and_is_the_same_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint

    converted_by_both(name, tmp_path, monkeypatch)
    expected = dovetail.fingerprint(tmp_path / "saved")
    theirs = alone(tmp_path, tmp_path / "theirs", "lit_model.pth", "model_config.yaml")
    report = dovetail.validate(theirs)
    assert (report.layout, report.is_whole) == ("litgpt", True)
    assert dovetail.fingerprint(theirs) == expected

    # and back: LitGPT's names of Hugging Face's tensors, in its own kind of file
    convert_lit_checkpoint(tmp_path / "theirs", tmp_path / "back")
    back = alone(tmp_path, tmp_path / "back", "model.pth")
    shutil.copy(tmp_path / "saved" / "config.json", back)
    assert dovetail.fingerprint(back) == expected

    dovetail.convert(theirs, tmp_path / "again", to="hf")
    assert dovetail.fingerprint(tmp_path / "again") == expected


def test_rotary_scaling_that_litgpt_computes_otherwise_is_refused(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    model = trained(decoder("Llama", max_position_embeddings=64, rope_parameters=yarn))
    model.save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    with pytest.raises(UsageError, match="rotary scaling of the kind `yarn`"):
        dovetail.convert(tmp_path / "saved", tmp_path / "out", to="litgpt")
    assert not (tmp_path / "out").exists()


def test_litgpt_s_yarn_is_not_that_of_transformers() -> None:
    """Should this fail, LitGPT has been corrected, and `rope_scaling.to_litgpt` may let yarn pass."""
    from litgpt.model import build_rope_cache
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = {"factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0}
    config = transformers.LlamaConfig(
        **{**TEXT, "head_dim": 16},
        max_position_embeddings=64,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 16,
            **values,
        },
    )
    theirs, scale = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    ours, _ = build_rope_cache(
        8, 16, base=10000, extra_config={**values, "original_max_seq_len": 16, "mscale": 1.0}
    )
    assert not torch.allclose(ours[1, :8], torch.cos(theirs) * scale, atol=1e-3)


# -- torch and timm


@pytest.mark.parametrize(
    ("id", "number", "layout", "file"),
    [
        ("prismatic", 0, "native", "checkpoints/latest-checkpoint.pt"),
        ("prismatic", 3, "native", "checkpoints/latest-checkpoint.pt"),
        ("qwen2_vl", 0, "litgpt", "lit_model.pth"),
        ("qwen2_vl", 0, "litgpt-fork", "lit_model.pth"),
        ("panovlm", 0, "legacy", "last.ckpt"),
    ],
)
def test_torch_maps_what_is_written_for_it(
    id: str, number: int, layout: str, file: str, tmp_path: Path
) -> None:
    dovetail.make(id, tmp_path / "made", set=MODELS[id][number], dtype="float32")
    dovetail.convert(tmp_path / "made", tmp_path / "out", to=layout)
    found = torch.load(tmp_path / "out" / file, weights_only=True, mmap=True)
    report = dovetail.validate(tmp_path / "out", values=True)
    assert (report.family, report.is_whole) == (id, True)
    flat = dict(_flat(found))
    assert len(flat) == report.tensors
    assert report.parameters == sum(
        tensor.numel() for tensor in {tensor.data_ptr(): tensor for tensor in flat.values()}.values()
    )


def _flat(value: Any, place: str = "") -> Any:
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}/{key}")


@pytest.mark.parametrize("model", ["vit_so400m_patch14_siglip_384", "vit_so400m_patch14_siglip_gap_384"])
def test_timm_loads_its_layout(model: str, tmp_path: Path) -> None:
    sizes = {"depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 42}
    tower = trained(lambda: import_timm().create_model(model, **sizes))
    save_file(tower.state_dict(), tmp_path / "model.safetensors")
    given = {"vision.heads": 3}
    dovetail.convert(tmp_path / "model.safetensors", tmp_path / "there", to="hf", set=given)
    dovetail.convert(tmp_path / "there", tmp_path / "back", to="timm")
    again = import_timm().create_model(model, **sizes).eval()
    from safetensors.torch import load_file

    again.load_state_dict(load_file(tmp_path / "back" / "model.safetensors"), strict=True)
    pixels = image(1, 3, 42, 42)
    with torch.no_grad():
        assert torch.equal(again(pixels), tower(pixels))
    if "gap" not in model:  # transformers' tower has no other pooling
        loaded, found = transformers.SiglipVisionModel.from_pretrained(
            tmp_path / "there", output_loading_info=True
        )
        assert {key: names for key, names in found.items() if names} == {}
        features = tower.forward_features(pixels)
        assert torch.allclose(loaded(pixels).last_hidden_state, features, atol=1e-2)
