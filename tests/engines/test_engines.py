"""What dovetail writes for a named reader, read by that reader in an environment of its own.

Every model is one that the library of this environment made and saved, with values that no initialiser
gives; the reader must find every tensor and no other, warn of nothing, and compute the same.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from environments import run

import dovetail
from dovetail.store.open import open_checkpoint
from tiny_models import (
    TEXT,
    decoder,
    llava_onevision,
    paligemma,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    siglip,
    siglip2_naflex,
    siglip_vision,
)

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

WORDS = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11]])}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


QWEN = {
    "input_ids": torch.tensor([[92, 90, 90, 90, 90, 93, 5, 6]]),
    "mm_token_type_ids": torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0]]),
    "pixel_values": image(16, 3 * 2 * 14 * 14),
    "image_grid_thw": torch.tensor([[1, 4, 4]]),
}
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
# builder and an input that every part has a say in
MODELS: dict[str, tuple[Callable[[], Any], dict[str, torch.Tensor]]] = {
    "qwen2": (
        decoder("Qwen2", rope_parameters={"rope_type": "default", "rope_theta": 123456.0}, **WINDOW),
        WORDS,
    ),
    "qwen2-tied": (decoder("Qwen2", tie_word_embeddings=True), WORDS),
    "qwen3": (decoder("Qwen3", head_dim=10), WORDS),
    "llama": (decoder("Llama", max_position_embeddings=64, rope_parameters=LLAMA3), WORDS),
    "mistral": (decoder("Mistral", sliding_window=4), WORDS),
    "gemma": (decoder("Gemma", head_dim=12), WORDS),
    "qwen2_vl": (qwen2_vl, QWEN),
    "qwen2_5_vl": (qwen2_5_vl, QWEN),
    "qwen3_vl": (qwen3_vl, QWEN),
    "paligemma": (
        paligemma,
        {
            "input_ids": torch.tensor([[96, 96, 96, 96, 1, 5, 6]]),
            "token_type_ids": torch.zeros(1, 7, dtype=torch.long),
            "pixel_values": image(1, 3, 28, 28),
        },
    ),
    "llava_onevision": (
        llava_onevision,
        {
            "input_ids": torch.tensor([[1, *[95] * 10, 5, 6]]),
            "pixel_values": image(1, 2, 3, 28, 28),
            "image_sizes": torch.tensor([[28, 28]]),
        },
    ),
    "siglip": (
        siglip,
        {"input_ids": torch.tensor([[1, 5, 6, 7, 8, 2, 2, 2]]), "pixel_values": image(1, 3, 28, 28)},
    ),
    "siglip_vision": (siglip_vision, {"pixel_values": image(1, 3, 28, 28)}),
    "siglip2_naflex": (
        siglip2_naflex,
        {
            "input_ids": torch.tensor([[1, 5, 6, 7, 8, 2, 2, 2]]),
            "pixel_values": image(1, 4, 3 * 14 * 14),
            "pixel_attention_mask": torch.ones(1, 4, dtype=torch.long),
            "spatial_shapes": torch.tensor([[2, 2]]),
        },
    ),
}


def trained(build: Callable[[], Any]) -> Any:
    """A model with no parameter left at a value that an initialiser gives."""
    torch.manual_seed(7)
    model = build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() < 2), std=0.2)
    model.set_attn_implementation("eager")
    return model


def answer(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        out = model(**inputs)
    names = ("logits", "logits_per_image", "last_hidden_state")
    return next(torch.as_tensor(getattr(out, name)) for name in names if hasattr(out, name))


def read_by_4(folder: Path, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What transformers 4.57 computes from a folder of which it complains nothing."""
    torch.save(inputs, folder / "inputs.pt")
    words = (folder, type(model).__name__, folder / "inputs.pt", folder / "outputs.pt")
    report = run("transformers-4.57", "read_transformers.py", *words)
    assert (report["keys"], report["warnings"]) == ({}, [])
    found: torch.Tensor = torch.load(folder / "outputs.pt")
    return found


@pytest.mark.parametrize("name", MODELS)
def test_transformers_4_computes_what_5_does(name: str, tmp_path: Path) -> None:
    build, inputs = MODELS[name]
    model = trained(build)
    model.save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "out", for_="transformers==4.57")
    torch.testing.assert_close(
        read_by_4(tmp_path / "out", model, inputs), answer(model, inputs), rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mistral"])
def test_a_config_that_was_lost_is_written_for_both(name: str, tmp_path: Path) -> None:
    build, inputs = MODELS[name]
    model = trained(build)
    model.save_pretrained(tmp_path / "saved")
    dovetail.convert(tmp_path / "saved", tmp_path / "certified")
    (tmp_path / "certified" / "config.json").unlink()
    for version in ("4.57", "5.23"):
        dovetail.convert(tmp_path / "certified", tmp_path / version, for_=f"transformers=={version}")
    expected = answer(model, inputs)
    found = read_by_4(tmp_path / "4.57", model, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    loaded, report = type(model).from_pretrained(
        tmp_path / "5.23", output_loading_info=True, attn_implementation="eager"
    )
    assert {key: names for key, names in report.items() if names} == {}
    torch.testing.assert_close(answer(loaded.eval(), inputs), expected, rtol=1e-6, atol=1e-6)


def test_transformers_4_opens_the_tokenizer_and_the_images_of_5(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<unk>": 0, "a": 1, "house": 2, "<image>": 3}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    siglip_vision().save_pretrained(tmp_path / "saved")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", extra_special_tokens=["<image>"]
    )
    tokenizer.save_pretrained(tmp_path / "saved")
    said = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "saved" / "processor_config.json").write_text(json.dumps({"image_processor": said}))
    dovetail.convert(tmp_path / "saved", tmp_path / "out", for_="transformers==4.57")
    assert run("transformers-4.57", "read_files.py", tmp_path / "out", "a house") == {
        "tokens": [1, 2],
        "mean": [0.1, 0.2, 0.3],
        "kind": "SiglipImageProcessor",
    }


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama", "Gemma", "Mistral"])
def test_vllm_continues_as_transformers_does(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 128}
    sizes |= {"head_dim": 32} if kind != "Qwen2" else {}
    rope = {"rope_parameters": LLAMA3} if kind == "Llama" else {}
    model = trained(decoder(kind, **{**TEXT, **sizes, "max_position_embeddings": 64, **rope}))
    model.save_pretrained(tmp_path / "saved")
    middle = {} if kind == "Mistral" else {"to": "litgpt"}
    dovetail.convert(tmp_path / "saved", tmp_path / "there", **middle)
    dovetail.convert(tmp_path / "there", tmp_path / "out", for_="vllm==0.32")
    words = [5, 6, 7, 8, 9]
    found = run("vllm-0.32", "read_vllm.py", tmp_path / "out", *map(str, words))["tokens"]
    for _ in range(6):
        logits = answer(model, {"input_ids": torch.tensor([words])})
        words.append(int(logits[0, -1].argmax()))
    assert found == words[5:]


@pytest.mark.parametrize(("id", "version"), [("pi0", "0.4"), ("pi0", "0.5"), ("pi05", "0.5")])
def test_lerobot_finds_every_tensor_of_full_size(id: str, version: str, tmp_path: Path) -> None:
    """pi0.5 needs a fork of transformers in lerobot 0.4, which no registry has."""
    dovetail.make(id, tmp_path / "made", sparse=True)
    dovetail.convert(
        tmp_path / "made", tmp_path / "out", for_=f"lerobot=={version}", set={"action_horizon": 7}
    )
    report = run(f"lerobot-{version}", "read_lerobot.py", tmp_path / "out")
    assert report["said"][-1] == "All keys loaded successfully!"
    assert (report["class"], report["dtype"]) == (f"{id.upper()}Policy", "bfloat16")
    assert (report["chunk_size"], report["image_resolution"]) == (7, [224, 224])
    with open_checkpoint(tmp_path / "out") as store:
        shapes = {name: list(entry.shape or ()) for name, entry in store.entries.items()}
    assert shapes.items() <= report["shapes"].items()
