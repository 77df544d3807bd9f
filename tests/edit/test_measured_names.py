"""What is written has the names that libraries were seen to write (tests/golden/layouts)."""

import json
from pathlib import Path

import pytest

import dovetail
from dovetail.store.open import open_checkpoint
from files import safetensors_bytes

GOLDEN = Path(__file__).parents[1] / "golden" / "layouts"
# the files of the hub, and who else was seen to write the same model: layout by golden name
WRITTEN = {
    "pi0": {"lerobot-0.4+": "lerobot", "lerobot-0.1-0.3": "lerobot-0.3"},
    "pi05": {"lerobot-0.4+": "lerobot", "lerobot-0.1-0.3": "lerobot-0.3"},
    "qwen2_vl": {"mem452": "hf-4.52", "save523": "hf", "mem523": "hf-4.52", "litgpt-seed": "litgpt-fork"},
    "qwen2_5_vl": {"mem452": "hf-4.52", "save523": "hf", "mem523": "hf-4.52"},
    "qwen3_vl": {"save523": "hf"},
    "paligemma": {"mem452": "hf-4.52", "save523": "hf-5.23", "mem523": "hf-5.23-mem"},
    "llava_onevision": {
        "mem452": "hf-4.52",
        "save523": "hf-5.23",
        "mem523": "hf-5.23-mem",
        "lmms-lab": "lmms",
    },
}


def names(folder: Path) -> set[str]:
    with open_checkpoint(folder) as store:
        return {*store.entries, *store.aliases}


@pytest.mark.parametrize(("model", "written"), [(m, w) for m, found in WRITTEN.items() for w in found])
def test_the_hub_s_file_becomes_what_a_library_was_seen_to_write_and_back(
    model: str, written: str, tmp_path: Path
) -> None:
    golden = json.loads((GOLDEN / f"{model}.json").read_text())
    there = golden["layouts"][written]
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "model.safetensors").write_bytes(safetensors_bytes(golden["hub"]))
    (hub / "config.json").write_text(json.dumps(golden["config"]))
    plain = {"format": "safetensors"}
    dovetail.convert(hub, tmp_path / "there", to=WRITTEN[model][written], **plain)
    found, expected = names(tmp_path / "there"), {there[name] for name in golden["hub"]}
    assert expected <= found
    assert all("lm_head" in name for name in found - expected), "only a tied head may be stored as well"
    dovetail.convert(
        tmp_path / "there", tmp_path / "back", **plain, to="openpi" if "pi" in model[:2] else "hf"
    )
    assert names(tmp_path / "back") == {*golden["hub"]}
