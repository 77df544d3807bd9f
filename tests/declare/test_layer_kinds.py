"""Layers of several kinds: proved, detected, checked, converted, made, cut."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dovetail
from declare.installed import installed
from declare.layer_kinds import ALL_MEMBERS, DECODER, FAMILY, MEMBERS, SIZES
from dovetail.declare.family import Family, layout
from dovetail.declare.lookalikes import same_layouts
from dovetail.declare.part import Facts, LayerKinds, Part
from dovetail.declare.prove import prove
from dovetail.errors import DeclarationError, UsageError
from files import first_and_last, header_of, plan_of, write_listing

LAYOUTS = ("hf", "fused")
MODEL = {**SIZES, **MEMBERS}


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("site"), "declare.layer_kinds:FAMILY"):
        yield


def header(layout: str) -> dict[str, list[Any]]:
    return header_of(plan_of("alternating", MODEL), layout)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with dovetail.open_checkpoint(folder) as store:
        return {
            name: np.frombuffer(store.read(name), dtype="<f4").reshape(entry.shape)
            for name, entry in store.entries.items()
        }


def test_it_holds() -> None:
    prove(FAMILY)
    assert same_layouts(FAMILY) == [[], []]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_and_the_kind_of_every_layer_are_read(layout: str, tmp_path: Path) -> None:
    report = dovetail.inspect(write_listing(tmp_path / "x.json", header(layout)))
    assert (report.family, report.layout, report.is_whole) == ("alternating", layout, True)
    assert {name: report.config[name].value for name in SIZES} == SIZES
    assert {name: report.config[name].value for name in ALL_MEMBERS} == ALL_MEMBERS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_is_wrong_is_found(layout: str, tmp_path: Path) -> None:
    """The first and the last tensor of each row dropped, renamed, reshaped and added to in turn."""
    whole = header(layout)
    for name in first_and_last(whole):
        dtype, shape = whole[name]
        rest = {other: value for other, value in whole.items() if other != name}
        bad = {
            "dropped": rest,
            "renamed": {**rest, f"{name}x": [dtype, shape]},
            "reshaped": {**whole, name: [dtype, [*shape[:-1], shape[-1] + 2]]},
            "added": {**whole, f"{name}x": [dtype, shape]},
        }
        for what, tensors in bad.items():
            if what in ("dropped", "renamed") and ".table." in name:
                continue  # tables are of no kind: which layers have one, the file says
            report = dovetail.inspect(write_listing(tmp_path / "x.json", tensors))
            errors = [finding for finding in report.findings if finding.severity == "error"]
            assert errors, f"{name} was {what}"
            named = {tensor for finding in errors for tensor in finding.tensors}
            assert named & {name, f"{name}x"}, f"{name} was {what}, and {named} are named"


def test_a_layer_without_any_tensor_of_its_kind_is_named(tmp_path: Path) -> None:
    tensors = {name: value for name, value in header("hf").items() if ".3.self_attn." not in name}
    report = dovetail.inspect(write_listing(tmp_path / "x.json", tensors))
    assert [
        (finding.code, finding.message) for finding in report.findings if finding.code == "layer-kind"
    ] == [("layer-kind", "layer 3 of text is of no kind, expected one of sliding_attention, full_attention")]
    assert not report.is_whole


@pytest.mark.parametrize(("a", "b"), [("hf", "fused"), ("fused", "hf")])
def test_either_layout_becomes_the_other_and_comes_back(a: str, b: str, tmp_path: Path) -> None:
    dovetail.make("alternating", tmp_path / "a", layout=a, set=MODEL, dtype="float32", seed=3)
    dovetail.convert(tmp_path / "a", tmp_path / "b", to=b)
    dovetail.convert(tmp_path / "b", tmp_path / "c", to=a)
    first, last = arrays(tmp_path / "a"), arrays(tmp_path / "c")
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)
    assert len({dovetail.fingerprint(tmp_path / name) for name in "abc"}) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_and_merged_it_is_the_same(layout: str, tmp_path: Path) -> None:
    dovetail.make("alternating", tmp_path / "a", layout=layout, set=MODEL, dtype="float32", seed=3)
    dovetail.split(tmp_path / "a", tmp_path / "nodes", nodes=2)
    dovetail.merge(tmp_path / "nodes", tmp_path / "b")
    first, last = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)


def test_the_config_says_the_kinds_and_is_held_to_them(tmp_path: Path) -> None:
    dovetail.make("alternating", tmp_path / "a", set=MODEL)
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    full, sliding = "full_attention", "sliding_attention"
    assert config["layer_types"] == [full if layer in (2, 5, 8) else sliding for layer in range(11)]
    assert config["mlp_types"] == ["double_wide" if layer in (0, 5, 6) else "narrow" for layer in range(11)]
    assert dovetail.validate(tmp_path / "a").is_whole
    config["layer_types"][3] = full
    path.write_text(json.dumps(config))
    report = dovetail.validate(tmp_path / "a")
    assert [finding.message for finding in report.findings if finding.severity == "error"] == [
        "layer 3 of text is sliding_attention by its tensors, expected full_attention in config.json: layer_types"
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"text.full_layers": "2", "text.sliding_layers": "0,1"}, "every layer of text is of one kind"),
        ({"text.full_layers": "2,19"}, "every layer of text is of one kind"),
    ],
)
def test_sizes_that_leave_a_layer_without_a_kind_are_refused(
    members: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        dovetail.make("alternating", tmp_path / "a", set={**MODEL, **members})
    assert error.value.message == message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (Facts(), "no kinds of layers divide the leaves stored as layers.{layer}.self_attn.q_proj.weight"),
        (
            DECODER.facts._replace(layer_kinds=(*DECODER.facts.layer_kinds, LayerKinds({"odd": "odd"}))),
            "alternating_decoder has no leaves of odd_layers",
        ),
    ],
)
def test_kinds_that_nothing_divides_are_refused(facts: Facts, message: str) -> None:
    part = Part(id=DECODER.id, table=DECODER.table, namings=DECODER.namings, facts=facts)
    family = Family(id="x", title="X", parts={"text": (part,)}, layouts=(layout("hf", {"text": "model."}),))
    with pytest.raises(DeclarationError) as error:
        prove(family)
    assert message in error.value.message
