"""Any one tensor that is dropped, added, renamed or reshaped is found and named, in every family."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dovetail
from dovetail.edit.side_files.config_json import config_json
from dovetail.families import built_in
from dovetail.report import Report
from files import MODELS, header_of, plan_of, write_listing

CASES = [
    (family.id, i, layout.id)
    for family in built_in()
    for i, model in enumerate(MODELS[family.id])
    for layout in family.layouts
    if header_of(plan_of(family.id, model), layout.id)
]


def judge(tmp_path: Path, case: tuple[str, int, str], header: dict[str, Any]) -> Report:
    """The report on a header, with the config that belongs to the undamaged model beside it."""
    id, i, layout = case
    path = write_listing(tmp_path / "x.json", header)
    plan = plan_of(id, MODELS[id][i])
    tied = not any(role in plan.kinds for role in plan.family.ties) if plan.family.ties else None
    config = config_json(plan, dtype="bfloat16", is_tied=tied)
    if config:
        write_listing(tmp_path / "config.json", config)
        return dovetail.inspect(path)
    return dovetail.validate(path, as_=f"{id}/{layout}")


def named(report: Report, *names: str) -> bool:
    """Whether an error says something of one of the names."""
    errors = [finding for finding in report.findings if finding.severity == "error"]
    return any(
        name in finding.tensors or f"`{name}`" in finding.message for finding in errors for name in names
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_undamaged_file_is_whole(case: tuple[str, int, str], tmp_path: Path) -> None:
    header = header_of(plan_of(case[0], MODELS[case[0]][case[1]]), case[2])
    report = judge(tmp_path, case, header)
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert (report.family, report.layout) == (case[0], case[2])


def pick(data: st.DataObject) -> tuple[tuple[str, int, str], dict[str, Any], str]:
    case = data.draw(st.sampled_from(CASES))
    header = header_of(plan_of(case[0], MODELS[case[0]][case[1]]), case[2])
    return case, header, data.draw(st.sampled_from(sorted(header)))


def is_optional(case: tuple[str, int, str], name: str) -> bool:
    """Whether a whole file may lack this tensor: a tied head that this layout copies, dead weight, or a
    part that is optional and has this one tensor only."""
    plan = plan_of(case[0], MODELS[case[0]][case[1]])
    stored = next(one for one in plan.stored(plan.family.layout(case[2])) if one.name == name)
    part = plan.kinds.get(stored.role) or plan.family.parts[stored.role][0]
    alone = len(part.leaves) == 1 and stored.role in plan.family.optional
    feature = [
        leaf for leaf in part.leaves.values() if leaf.feature and leaf.feature == stored.leaves[0].feature
    ]
    return (
        (alone and stored.role not in plan.kinds)
        or stored.leaves[0].is_dead
        or (len(feature) == 1 and feature[0].feature in part.optional)
    )


@given(st.data())
def test_a_dropped_tensor_is_named(tmp_path: Path, data: st.DataObject) -> None:
    case, header, name = pick(data)
    if is_optional(case, name):
        return
    del header[name]
    report = judge(tmp_path, case, header)
    assert named(report, name) or any(f.code == "tie-flag" for f in report.findings if f.severity == "error")


@given(st.data())
def test_an_added_tensor_is_named(tmp_path: Path, data: st.DataObject) -> None:
    case, header, name = pick(data)
    head, _, leaf = name.rpartition(".")
    new = data.draw(
        st.sampled_from(
            [
                f"{name}.extra",
                f"{head}.extra.{leaf}",
                "extra.weight",
                f"model.extra.{leaf}",
                f"{head}.9.{leaf}",
            ]
        )
    )
    header[new] = ["BF16", [3]]
    assert named(judge(tmp_path, case, header), new)


@given(st.data())
def test_a_renamed_tensor_is_named_under_one_of_its_names(tmp_path: Path, data: st.DataObject) -> None:
    case, header, name = pick(data)
    new = data.draw(
        st.sampled_from([f"{name}_", f"x{name}", f"{name}.weight", name.replace(".", "..", 1) + "x"])
    )
    header[new] = header.pop(name)
    assert named(judge(tmp_path, case, header), name, new)


@given(st.data())
def test_a_reshaped_tensor_is_named(tmp_path: Path, data: st.DataObject) -> None:
    case, header, name = pick(data)
    dtype, shape = header[name]
    ways = [[*shape, 1], shape[:-1] or [1, 1], [size + 1 for size in shape], shape[::-1], [0]]
    new = data.draw(st.sampled_from([way for way in ways if way != shape]))
    header[name] = [dtype, new]
    report = judge(tmp_path, case, header)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    # one tensor alone may decide a size; then the contradiction with the config names the size it decides
    assert (
        named(report, name)
        or any(f.code in ("config-conflict", "shape") for f in errors)
        or decides_alone(case, name)
    )


def decides_alone(case: tuple[str, int, str], name: str) -> bool:
    """Whether the tensor's sizes are stated by nothing else, neither another tensor nor a config."""
    plan = plan_of(case[0], MODELS[case[0]][case[1]])
    stored = list(plan.stored(plan.family.layout(case[2])))
    mine = next(one for one in stored if one.name == name)
    own = {f"{mine.role}.{dim}" for leaf in mine.leaves for axis in leaf.shape for dim in axis.names}
    others = {
        f"{one.role}.{dim}"
        for one in stored
        if one.name != name
        for leaf in one.leaves
        for axis in leaf.shape
        for dim in axis.names
    }
    return bool(own - others)
