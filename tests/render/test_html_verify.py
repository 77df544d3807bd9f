"""The drawing of a verification: a point for every stage that has a place on its scale."""

from typing import Any

import pytest

from dovetail.render.html_verify import drawing


def stage(name: str, norm: float | None) -> dict[str, Any]:
    distance = None if norm is None else {"relative_norm": norm}
    return {"stage": name, "verdict": "good", "isolated": distance, "chained": distance}


@pytest.mark.parametrize("missing", [0.0, None])
def test_a_stage_without_difference_has_no_point_and_no_dip(missing: float | None) -> None:
    drawn = str(drawing("prefill", [stage("a", 2e-3), stage("b", missing), stage("c", 3e-3)], 3e-2))
    assert drawn.count("<title>") == 2
    assert "1e-3" in drawn
    assert "1e-4" not in drawn
    assert "no dot: equal, or not run" in drawn
    assert "no dot" not in str(drawing("prefill", [stage("a", 2e-3), stage("c", 3e-3)], 3e-2))


def test_stages_that_are_all_equal_are_drawn_too() -> None:
    drawn = str(drawing("prefill", [stage("a", 0.0), stage("b", 0.0)], 3e-2))
    assert "<title>" not in drawn
    assert "<polyline" in drawn or "<path" in drawn
