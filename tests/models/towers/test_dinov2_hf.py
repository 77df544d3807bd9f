"""DINOv2 as transformers saves it: whole, there and back, and equal in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file

import dovetail
from dovetail.errors import UsageError
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 28,
    "patch_size": 7,
    "mlp_ratio": 3,
}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "plain": ("Dinov2", {}, "dinov2"),
    "gated": ("Dinov2", {"use_swiglu_ffn": True}, "dinov2_gated"),
    "registers": ("Dinov2WithRegisters", {"num_register_tokens": 3}, "dinov2"),
    "gated-registers": (
        "Dinov2WithRegisters",
        {"num_register_tokens": 4, "use_swiglu_ffn": True},
        "dinov2_gated",
    ),
    "no-mask-token": ("Dinov2", {"use_mask_token": False}, "dinov2"),
}


def original(name: str) -> Any:
    cls, more, _ = CASES[name]
    config = getattr(transformers, f"{cls}Config")(**SIZES, **more)
    return randomise(getattr(transformers, f"{cls}Model")(config))


@pytest.mark.parametrize("name", CASES)
def test_it_equals_transformers(name: str, tmp_path: Path) -> None:
    theirs = original(name)
    mine = loaded(theirs, tmp_path)
    report = dovetail.validate(tmp_path)
    assert (report.family, report.layout, report.parts["vision"].kind) == ("dinov2", "hf", CASES[name][2])
    assert [one.code for one in report.findings] == ([] if name == "no-mask-token" else ["dead"])
    registers = CASES[name][1].get("num_register_tokens", 0)
    for height, width in ((28, 28), (14, 21), (42, 35)):
        pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = theirs(pixels).last_hidden_state[:, 1 + registers :]
            assert_near(mine(pixels), expected)
    image = np.zeros((40, 31, 3), np.uint8)
    assert mine.prepare([image])["pixels"].shape == (1, 3, 28, 28)


@pytest.mark.parametrize("name", ["plain", "gated", "no-mask-token"])
def test_timm_has_a_place_for_it(name: str, tmp_path: Path) -> None:
    """All but the mask token, which is named where it stands in the way."""
    original(name).save_pretrained(tmp_path / "hf")
    if name != "no-mask-token":
        with pytest.raises(UsageError, match=r"layout timm has no name for `vision\.mask_token`"):
            dovetail.convert(tmp_path / "hf", tmp_path / "timm", to="timm")
        return
    dovetail.convert(tmp_path / "hf", tmp_path / "timm", to="timm")
    dovetail.convert(tmp_path / "timm", tmp_path / "back", to="hf")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


@pytest.mark.parametrize(
    ("vision", "cls"),
    [
        ("dinov2+mask_token", "Dinov2Model"),
        ("dinov2_gated+mask_token", "Dinov2Model"),
        ("dinov2+registers+mask_token", "Dinov2WithRegistersModel"),
    ],
)
def test_what_is_made_opens_in_transformers(vision: str, cls: str, tmp_path: Path) -> None:
    d_ff = 64 if "gated" in vision else 96
    sizes = {
        "layers": 2,
        "d_vision": 24,
        "heads": 3,
        "d_ff": d_ff,
        "patch": 7,
        "positions": 17,
        "channels": 3,
    }
    if "registers" in vision:
        sizes["registers"] = 2
    given = {"vision": vision, **{f"vision.{name}": size for name, size in sizes.items()}}
    dovetail.make("dinov2", tmp_path, layout="hf", set=given, dtype="float32")
    model, said = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == cls
    assert {key: len(names) for key, names in said.items()} == dict.fromkeys(said, 0)
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(pixels).last_hidden_state[:, -16:]
        assert_near(dovetail.load(tmp_path)(pixels), expected)


def test_one_tensor_less_is_found(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original("registers").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for lost in ("encoder.layer.1.mlp.fc2.bias", "embeddings.position_embeddings", "layernorm.weight"):
        save_file(
            {name: one for name, one in tensors.items() if name != lost}, tmp_path / "model.safetensors"
        )
        report = dovetail.validate(tmp_path)
        assert not report.is_whole
        assert lost in str([finding.tensors for finding in report.findings])


@pytest.mark.parametrize("name", ["registers", "gated"])
def test_the_names_in_memory_are_known(name: str, tmp_path: Path) -> None:
    """They differ from those on disk since 5.23."""
    theirs = original(name)
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "memory").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "memory" / "pytorch_model.bin")
    theirs.config.save_pretrained(tmp_path / "memory")
    assert dovetail.validate(tmp_path / "memory").layout == "hf-5.23-mem"
    assert dovetail.fingerprint(tmp_path / "memory") == dovetail.fingerprint(tmp_path / "saved")
