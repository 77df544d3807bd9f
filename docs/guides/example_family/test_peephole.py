"""What a package that brings a family tests."""

import json
from pathlib import Path

import pytest
from peephole import FAMILY

import dovetail
from dovetail.declare.lookalikes import same_families, same_layouts
from dovetail.declare.prove import prove

# Pairwise different primes where sizes are free: sizes that coincide make false solutions.
TINY: dict[str, int | str] = {
    "vision.layers": 2, "vision.d_vision": 66, "vision.heads": 6, "vision.d_ff": 71,
    "vision.patch": 5, "vision.positions": 49, "vision.channels": 3,
    "text.layers": 3, "text.d_model": 61, "text.q_heads": 4, "text.kv_heads": 2,
    "text.head_dim": 7, "text.d_ff": 83, "text.vocab": 211,
    "resampler.queries": 5, "resampler.layers": 2, "resampler.heads": 6,
}  # fmt: skip


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
