"""Names that six versions of transformers and four other projects were seen to write (tests/golden)."""

import json
from pathlib import Path

import pytest

import dovetail
from files import write_listing

GOLDEN = Path(__file__).parents[1] / "golden" / "layouts"
HF = {"hub": "hf", "mem452": "hf-4.52", "save554": "hf-5.5.4", "save523": "hf-5.23", "mem523": "hf-5.23-mem"}
EXPECTED = {
    "llava_onevision": ("llava_onevision", {**HF, "lmms-lab": "lmms"}),
    "llava": ("llava", HF),
    "paligemma": ("paligemma", HF),
    "qwen2_vl": ("qwen2_vl", {**HF, "save523": "hf", "mem523": "hf-4.52", "litgpt-seed": "litgpt-fork"}),
    "qwen2_5_vl": ("qwen2_5_vl", {**HF, "save523": "hf", "mem523": "hf-4.52"}),
    "qwen3_vl": ("qwen3_vl", dict.fromkeys(HF, "hf")),
    "siglip_vision": (
        "siglip",
        {"hub": "hf", "mem452": "hf", "save554": "hf", "save523": "hf-5.23", "mem523": "hf-5.23"},
    ),
    "pi0": ("pi0", {"hub": "openpi", "lerobot-0.4+": "lerobot", "lerobot-0.1-0.3": "lerobot-0.3"}),
    "pi05": ("pi05", {"hub": "openpi", "lerobot-0.4+": "lerobot", "lerobot-0.1-0.3": "lerobot-0.3"}),
}


@pytest.mark.parametrize(
    ("model", "written"),
    [(model, written) for model, (_, layouts) in EXPECTED.items() for written in layouts],
)
def test_what_a_library_was_seen_to_write_is_told_right(model: str, written: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{model}.json").read_text())
    names = golden["layouts"].get(written, {name: name for name in golden["hub"]})
    header = {names[name]: value for name, value in golden["hub"].items()}
    family, layouts = EXPECTED[model]
    for config in [golden["config"], *([golden["config_v5"]] if "config_v5" in golden else [])]:
        write_listing(tmp_path / "config.json", config)
        report = dovetail.validate(write_listing(tmp_path / "x.json", header))
        assert (report.family, report.layout) == (family, layouts[written])
        assert [f.message for f in report.findings if f.severity == "error"] == []
        undetermined = [name for name, value in report.config.items() if value.source == "undetermined"]
        assert undetermined == []


def test_every_measured_layout_is_expected() -> None:
    measured = {
        path.stem: {"hub", *json.loads(path.read_text())["layouts"]} for path in GOLDEN.glob("*.json")
    }
    assert measured == {model: set(layouts) for model, (_, layouts) in EXPECTED.items()}
