"""What a package that brings a family tests."""

import json
from pathlib import Path

import numpy as np
import pytest
from peephole.family import FAMILY

import dovetail
from dovetail.declare.lookalikes import same_families, same_layouts
from dovetail.declare.prove import prove

# Pairwise different primes where sizes are free: sizes that coincide make false solutions.
TINY: dict[str, int | str] = {
    "vision.layers": 2, "vision.d_vision": 66, "vision.heads": 6, "vision.d_ff": 71,
    "vision.patch": 5, "vision.positions": 49, "vision.channels": 3,
    "text.layers": 3, "text.d_model": 61, "text.q_heads": 4, "text.kv_heads": 2,
    "text.head_dim": 14, "text.d_ff": 83, "text.vocab": 211,
    "resampler.queries": 5, "resampler.layers": 2, "resampler.heads": 6,
}  # fmt: skip
GATED = {"resampler": "peephole_resampler+gate"}


def test_the_declaration_holds() -> None:
    prove(FAMILY)
    assert same_layouts(FAMILY) == [[], []]
    assert same_families([FAMILY]) == []


@pytest.mark.parametrize("layout", ["hf", "trainer"])
def test_what_is_made_is_recognised_and_a_lost_tensor_is_found(layout: str, tmp_path: Path) -> None:
    dovetail.make("peephole", tmp_path / "out", layout=layout, set=TINY)
    report = dovetail.validate(tmp_path / "out")
    assert (report.family, report.layout, report.is_whole) == ("peephole", layout, True)
    assert report.config["text.d_model"].value == 61

    with dovetail.open_checkpoint(tmp_path / "out") as store:
        header = {name: [entry.dtype, entry.shape] for name, entry in store.entries.items()}
    lost = next(name for name in header if name.startswith(("model.resampler.", "resampler.")))
    del header[lost]
    (tmp_path / "less.json").write_text(json.dumps(header))
    report = dovetail.inspect(tmp_path / "less.json")
    assert report.family is None
    assert [f.tensors for f in report.findings if f.code == "missing"] == [(lost,)]


def test_it_runs_from_every_layout_and_sees_the_image(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    dovetail.make("peephole", tmp_path / "hf", layout="hf", set={**TINY, **GATED}, dtype="float32")
    dovetail.convert(tmp_path / "hf", tmp_path / "trainer", to="trainer")
    images = [np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8) for seed in (1, 2)]
    logits = []
    for folder in ("hf", "trainer"):
        model = dovetail.load(tmp_path / folder)
        for gate in (block.gate for block in model.resampler.blocks):
            torch.nn.init.ones_(gate)  # which begins closed
        inputs = [model.prepare([[7, 3, 11]], [[image]]) for image in images]
        assert inputs[0]["tokens"].shape == (1, 2 + TINY["resampler.queries"])
        with torch.no_grad():
            logits.append([model(**one) for one in inputs])
    assert not torch.equal(*logits[0])
    assert all(torch.equal(one, other) for one, other in zip(*logits, strict=True))
