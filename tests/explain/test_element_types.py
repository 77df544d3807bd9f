"""Weights are floating-point numbers: any one tensor of another type is found, and a mix is told."""

from pathlib import Path
from typing import Any

import pytest

import dovetail
from files import MODELS, first_and_last, header_of, plan_of, write_listing

HEADER = header_of(plan_of("qwen2_vl", MODELS["qwen2_vl"][0]), "hf")


def findings(path: Path, header: dict[str, Any]) -> list[tuple[str, str, str]]:
    report = dovetail.inspect(write_listing(path / "x.json", header))
    return [(one.code, one.severity, one.message) for one in report.findings]


@pytest.mark.parametrize("dtype", ["I32", "I64", "U8", "BOOL"])
def test_any_one_weight_that_is_no_floating_point_number_is_an_error(dtype: str, tmp_path: Path) -> None:
    for name in first_and_last(HEADER):
        changed = {**HEADER, name: [dtype, HEADER[name][1]]}
        message = f"`{name}` is {dtype}: weights are floating-point numbers"
        assert findings(tmp_path, changed) == [("no-float", "error", message)]


def test_one_cause_is_one_finding(tmp_path: Path) -> None:
    changed = {name: ["I8" if "mlp" in name else dtype, shape] for name, (dtype, shape) in HEADER.items()}
    ((code, _, message),) = findings(tmp_path, changed)
    assert code == "no-float"
    assert message.endswith(" and 20 more are I8: weights are floating-point numbers")


def test_floating_point_numbers_of_several_widths_are_none_of_it(tmp_path: Path) -> None:
    """The sibling: another width in one layer is a warning, in a whole row it is usual."""
    norms = {name: ["F32" if "norm" in name else dtype, shape] for name, (dtype, shape) in HEADER.items()}
    assert findings(tmp_path, norms) == []
    one = {**HEADER, "model.layers.1.mlp.up_proj.weight": ["F8_E4M3", [83, 61]]}
    assert [code for code, _, _ in findings(tmp_path, one)] == ["dtype-mix"]
