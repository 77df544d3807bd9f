"""Experts in one tensor or each in its own, and single numbers: proved, detected, checked, converted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dovetail
from declare.installed import installed
from declare.mixture import DECODER, FAMILY, SIZES
from dovetail.declare.family import Family, Mount, layout
from dovetail.declare.lookalikes import same_layouts
from dovetail.declare.part import Naming, Part
from dovetail.declare.prove import prove
from dovetail.errors import DeclarationError
from files import first_and_last, header_of, plan_of, write_listing

LAYOUTS = [one.id for one in FAMILY.layouts]
PAIRS = [(a, b) for a in LAYOUTS for b in LAYOUTS if a != b]


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("site"), "declare.mixture:FAMILY"):
        yield


def header(layout: str) -> dict[str, list[Any]]:
    return header_of(plan_of("mixture", SIZES), layout)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with dovetail.open_checkpoint(folder) as store:
        return {
            name: np.frombuffer(store.read(name), dtype="<f4").reshape(entry.shape)
            for name, entry in store.entries.items()
        }


def test_it_holds_and_its_layouts_can_be_told_apart() -> None:
    prove(FAMILY)
    assert same_layouts(FAMILY) == [[], [], []]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_recognised_with_all_its_sizes(layout: str, tmp_path: Path) -> None:
    report = dovetail.inspect(write_listing(tmp_path / "x.json", header(layout)))
    assert (report.family, report.layout, report.is_whole) == ("mixture", layout, True)
    assert {name: report.config[name].value for name in SIZES} == SIZES
    assert {report.config[name].source for name in SIZES} == {"weights"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_is_wrong_is_found(layout: str, tmp_path: Path) -> None:
    """The first and the last tensor of each row dropped, renamed, reshaped and added to in turn."""
    small = {**SIZES, "text.layers": 3, "text.experts": 2}
    whole = header_of(plan_of("mixture", small), layout)
    for name in first_and_last(whole):
        dtype, shape = whole[name]
        rest = {other: value for other, value in whole.items() if other != name}
        bad = {
            "dropped": rest,
            "renamed": {**rest, f"{name}x": [dtype, shape]},
            "reshaped": {**whole, name: [dtype, [*shape[:-1], shape[-1] + 2] if shape else [1]]},
            "added": {**whole, f"{name}x": [dtype, shape]},
        }
        for what, tensors in bad.items():
            report = dovetail.inspect(write_listing(tmp_path / "x.json", tensors))
            errors = [finding for finding in report.findings if finding.severity == "error"]
            assert errors, f"{name} was {what}"
            named = {tensor for finding in errors for tensor in finding.tensors}
            assert named & {name, f"{name}x"}, f"{name} was {what}, and {named} are named"


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_layout_becomes_every_other_and_comes_back(a: str, b: str, tmp_path: Path) -> None:
    dovetail.make("mixture", tmp_path / "a", layout=a, set=SIZES, dtype="float32", seed=3)
    dovetail.convert(tmp_path / "a", tmp_path / "b", to=b)
    dovetail.convert(tmp_path / "b", tmp_path / "c", to=a)
    first, last = arrays(tmp_path / "a"), arrays(tmp_path / "c")
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)
    hashes = {dovetail.fingerprint(tmp_path / name) for name in "abc"}
    assert len(hashes) == 1


def test_where_the_numbers_go(tmp_path: Path) -> None:
    dovetail.make("mixture", tmp_path / "each", layout="each", set=SIZES, dtype="float32", seed=3)
    each = arrays(tmp_path / "each")
    experts = "model.layers.4.mlp.experts"
    gates, ups, downs = (
        np.stack([each[f"{experts}.{i}.{word}_proj.weight"] for i in range(3)])
        for word in ("gate", "up", "down")
    )
    for to in ("stacked", "turned"):
        dovetail.convert(tmp_path / "each", tmp_path / to, to=to)
        found = arrays(tmp_path / to)
        fused, down = np.concatenate([gates, ups], axis=1), downs
        if to == "turned":
            fused, down = fused.transpose(0, 2, 1), down.transpose(0, 2, 1)
        assert np.array_equal(found[f"{experts}.gate_up_proj"], fused)
        assert np.array_equal(found[f"{experts}.down_proj"], down)
        assert found["model.layers.0.input_min"].shape == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_and_merged_it_is_the_same(layout: str, tmp_path: Path) -> None:
    dovetail.make("mixture", tmp_path / "a", layout=layout, set=SIZES, dtype="float32", seed=3)
    dovetail.split(tmp_path / "a", tmp_path / "nodes", nodes=2)
    dovetail.merge(tmp_path / "nodes", tmp_path / "b")
    first, last = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)


def test_an_expert_that_is_missing_is_no_stack(tmp_path: Path) -> None:
    tensors = header("each")
    for name in [name for name in tensors if ".layers.2.mlp.experts.1." in name]:
        del tensors[name]
    report = dovetail.inspect(write_listing(tmp_path / "x.json", tensors))
    assert not report.is_whole


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "blocks.{layer}.experts.{expert}.down.weight  layers.{layer}.down  stack layer",
            "mixture_decoder/x: layers.{layer}.down has the indices ['layer'], "
            "its leaf blocks.{layer}.experts.{expert}.down.weight ['expert', 'layer']",
        ),
        (
            "blocks.{layer}.experts.{expert}.down.weight  layers.{layer}.down  stack expert of layers",
            "mixture_decoder/x: layers.{layer}.down is stacked over expert, which experts counts, not layers",
        ),
        (
            "blocks.{layer}.experts.{expert}.down.weight  layers.{layer}.down",
            "mixture_decoder/x: layers.{layer}.down has the indices ['layer'], "
            "its leaf blocks.{layer}.experts.{expert}.down.weight ['expert', 'layer']",
        ),
    ],
)
def test_a_stack_over_another_index_is_refused(row: str, message: str) -> None:
    part = Part(id=DECODER.id, table=DECODER.table, namings={"x": Naming(row)})
    family = Family(
        id="x", title="X", parts={"text": (part,)}, layouts=(layout("x", {"text": Mount("", "x")}),)
    )
    with pytest.raises(DeclarationError) as error:
        prove(family)
    assert message in error.value.message


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("stack expert, transpose", "`transpose` cannot come after a stack over an index"),
        ("transpose, concat", "`concat` cannot come after another op"),
        ("turn, stack expert", "no op is called `turn`"),
    ],
)
def test_ops_that_do_not_follow_each_other_are_refused(op: str, message: str) -> None:
    with pytest.raises(DeclarationError) as error:
        assert Naming(f"a  b  {op}").rows
    assert error.value.message == message
