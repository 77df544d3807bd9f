"""The config that `make` writes for SigLIP and SigLIP2 opens in transformers, as the class that it is."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from files import scoped
from parity import assert_near

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

VISION = {"layers": 2, "d_vision": 24, "heads": 3, "d_ff": 31, "patch": 4, "positions": 16, "channels": 3}
TEXT = {"layers": 2, "d_text": 24, "heads": 3, "d_ff": 29, "vocab": 97, "positions": 8, "d_out": 24}
ALONE = scoped("vision", VISION)
PAIR = {**ALONE, "text": "siglip_text", **scoped("text", TEXT), "contrast": "contrast"}
CASES = {
    "siglip": ({"vision": "siglip", **ALONE}, "SiglipVisionModel"),
    "siglip-pool": ({"vision": "siglip+pool", **ALONE}, "SiglipVisionModel"),
    "siglip-pair": ({"vision": "siglip+pool", **PAIR}, "SiglipModel"),
    "naflex": ({"vision": "siglip_naflex", **ALONE}, "Siglip2VisionModel"),
    "naflex-pool": ({"vision": "siglip_naflex+pool", **ALONE}, "Siglip2VisionModel"),
    "naflex-pair": ({"vision": "siglip_naflex+pool", **PAIR}, "Siglip2Model"),
}


@pytest.mark.parametrize("name", CASES)
def test_transformers_opens_what_is_made(name: str, tmp_path: Path) -> None:
    sizes, cls = CASES[name]
    layout = "hf" if "pair" in name else "hf-5.23"
    dovetail.make("siglip", tmp_path, set=sizes, dtype="float32", layout=layout)
    model, said = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert (type(model).__name__, {key: len(names) for key, names in said.items()}) == (
        cls,
        dict.fromkeys(said, 0),
    )
    vision = model.config.vision_config if "pair" in name else model.config
    assert getattr(vision, "vision_use_head", True) is ("pair" in name or "pool" in name)
    if "naflex" in name:
        assert vision.num_patches == 16
    inputs = _images("naflex" in name)
    with torch.no_grad():
        tower = model.vision_model if "pair" in name else model
        expected = tower.eval()(**inputs["theirs"]).last_hidden_state
        assert_near(dovetail.load(tmp_path)(**inputs["ours"]).reshape(expected.shape), expected)


def _images(is_naflex: bool) -> dict[str, dict[str, Any]]:
    """One image of 4 x 4 patches as transformers and as dovetail are given it."""
    generator = torch.Generator().manual_seed(0)
    if not is_naflex:
        pixels = torch.randn(1, 3, 16, 16, generator=generator)
        return {"theirs": {"pixel_values": pixels}, "ours": {"pixels": pixels}}
    patches = torch.randn(1, 16, 48, generator=generator)
    grid = torch.tensor([[4, 4]])
    mask = torch.ones(1, 16, dtype=torch.long)
    theirs = {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": grid}
    return {"theirs": theirs, "ours": {"patches": patches[0], "grids": grid}}


def test_a_naflex_tower_of_the_usual_size_can_be_made(tmp_path: Path) -> None:
    dovetail.make("siglip", tmp_path / "it", set={"vision": "siglip_naflex"}, sparse=True)
    report = dovetail.inspect(tmp_path / "it")
    assert (report.family, report.parts["vision"].kind) == ("siglip", "siglip_naflex")
    assert report.config["vision.positions"].evidence
    assert [one.message for one in report.findings if one.severity == "error"] == []
