"""CLIP and lone text towers as transformers saves them: whole, there and back, and what is made opens there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import UsageError
from files import MODELS

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 16,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": 97,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def alone(cls: str, config: str, **sizes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, cls)(getattr(transformers, config)(**sizes))


def pair() -> Any:
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=16)
    return transformers.CLIPModel(config)


# builder, family, layout that 5.23 writes, another that holds it
CASES: dict[str, tuple[Callable[[], Any], str, str, str | None]] = {
    "clip": (pair, "clip", "hf", None),
    "clip-vision": (alone("CLIPVisionModel", "CLIPVisionConfig", **VISION), "clip", "hf-5.23", "hf"),
    "clip-vision-projected": (
        alone("CLIPVisionModelWithProjection", "CLIPVisionConfig", **VISION),
        "clip",
        "hf",
        None,
    ),
    "clip-text": (alone("CLIPTextModel", "CLIPTextConfig", **TEXT), "clip_text", "hf-5.23", "hf"),
    "clip-text-projected": (
        alone("CLIPTextModelWithProjection", "CLIPTextConfig", **TEXT, projection_dim=16),
        "clip_text",
        "hf",
        None,
    ),
    "siglip-text": (alone("SiglipTextModel", "SiglipTextConfig", **TEXT), "siglip_text", "hf-5.23", "hf"),
    "siglip2-text": (alone("Siglip2TextModel", "Siglip2TextConfig", **TEXT), "siglip_text", "hf-5.23", "hf"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_whole_and_comes_back_to_the_byte(name: str, tmp_path: Path) -> None:
    build, family, layout, other = CASES[name]
    build().save_pretrained(tmp_path / "saved")
    report = dovetail.validate(tmp_path / "saved")
    assert (report.family, report.layout, report.findings) == (family, layout, ())
    if other is None:
        return
    dovetail.convert(tmp_path / "saved", tmp_path / "there", to=other)
    assert dovetail.validate(tmp_path / "there").is_whole
    dovetail.convert(tmp_path / "there", tmp_path / "back", to=layout)
    before, after = (load_file(tmp_path / one / "model.safetensors") for one in ("saved", "back"))
    assert {key: one.numpy().tobytes() for key, one in after.items()} == {
        key: one.numpy().tobytes() for key, one in before.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_every_lost_tensor_is_found(name: str, tmp_path: Path) -> None:
    CASES[name][0]().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    optional = {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    for lost in [name for name in tensors if ".0." not in name and name not in optional]:
        kept = {name: one for name, one in tensors.items() if name != lost}
        save_file(kept, tmp_path / "model.safetensors")
        report = dovetail.inspect(tmp_path)
        assert not report.is_whole, lost


@pytest.mark.parametrize(
    ("family", "number", "layout", "cls"),
    [
        ("clip", 0, "hf", "CLIPModel"),
        ("clip", 1, "hf-5.23", "CLIPVisionModel"),
        ("clip_text", 0, "hf-5.23", "CLIPTextModel"),
        ("siglip_text", 0, "hf-5.23", "SiglipTextModel"),
    ],
)
def test_what_is_made_opens_in_transformers(
    family: str, number: int, layout: str, cls: str, tmp_path: Path
) -> None:
    dovetail.make(family, tmp_path, set=MODELS[family][number], layout=layout, dtype="float32")
    model, said = getattr(transformers, cls).from_pretrained(tmp_path, output_loading_info=True)
    assert model.config.architectures == [cls]
    assert {key: len(names) for key, names in said.items()} == dict.fromkeys(said, 0)


def test_they_are_not_run_and_whole_all_the_same(tmp_path: Path) -> None:
    pair().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="dovetail has no model of clip"):
        dovetail.load(tmp_path)
    report = dovetail.validate(tmp_path, forward=True)
    assert report.is_whole
    assert [finding.code for finding in report.findings] == ["not-run"]
