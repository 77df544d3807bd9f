"""What a user demands of a checkpoint (--as, --size, --set): ties are settled, another architecture is an error."""

from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.cli import main
from dovetail.declare.blueprint import Blueprint
from dovetail.errors import UsageError
from dovetail.names import star
from dovetail.report import Report
from files import MODELS, first_and_last, header_of, plan_of, write_listing


def errors(report: Report) -> list[str]:
    return [one.message for one in report.findings if one.severity == "error"]


# -- sizes


PATCH = "vision.patch is 16 in the weights (`vision_model.embeddings.patch_embedding.weight`) and 14 in "
POSITIONS = (
    "vision.positions is 256 in the weights (`vision_model.embeddings.position_embedding.weight`) and 729 in "
)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tower of patches of 16 pixels, where somebody expects one of 14."""
    folder = tmp_path_factory.mktemp("tower") / "it"
    dovetail.make("siglip", folder, size="so400m-patch16-256", sparse=True)
    (folder / "config.json").unlink()
    return folder


def test_another_size_than_the_demanded_one_is_an_error(tower: Path) -> None:
    for use in (dovetail.inspect, dovetail.validate):
        report = use(tower, size="so400m-patch14-378", as_="siglip")
        option = "--size so400m-patch14-378: vision."
        assert errors(report) == [f"{PATCH}{option}patch", f"{POSITIONS}{option}positions"]
    report = dovetail.inspect(tower, size="siglip/so400m-patch16-256")
    assert report.is_whole
    assert report.config["vision.heads"] == (16, "stamp", "--size so400m-patch16-256: vision.heads")
    with pytest.raises(UsageError, match="siglip has no size `so400m-patch14-384`") as refusal:
        dovetail.inspect(tower, size="so400m-patch14-384")
    assert str(refusal.value.hint).startswith("did you mean `so400m-patch14-378`?")


def test_a_single_size_can_be_demanded(tower: Path) -> None:
    report = dovetail.validate(tower, set={"patch": 14, "vision.positions": 729})
    assert errors(report) == [f"{PATCH}--set: vision.patch", f"{POSITIONS}--set: vision.positions"]
    (hint,) = {one.hint for one in report.findings if one.severity == "error"}
    assert hint == "it is not what --set says: find the checkpoint that is, or leave the --set out"
    assert dovetail.validate(tower, set={"patch": 16, "vision.positions": 256}).is_whole
    assert not dovetail.validate(tower, set={"patch": 14}, trust="weights").is_whole


@pytest.mark.parametrize("verb", ["inspect", "validate", "verify"])
def test_the_command_line_has_the_same_words(
    verb: str, tower: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(tower), "--as", "siglip", "--size", "so400m-patch14-378"]) == 1
    shown = capsys.readouterr()
    assert "14 in --size so400m-patch14-378" in " ".join((shown.out + shown.err).split())
    assert main([verb, str(tower), "--set", "patch=14"]) == 1


# -- ties


def test_a_kind_that_no_tensor_shows_can_be_said(tmp_path: Path) -> None:
    path = write_listing(
        tmp_path / "x.json", header_of(plan_of("prismatic", MODELS["prismatic"][3]), "openvla")
    )
    path = write_listing(
        path,
        {**header_of(plan_of("prismatic", {**MODELS["prismatic"][0], "projector": "gelu_mlp"}), "openvla")},
    )
    report = dovetail.inspect(path)
    assert (report.parts["projector"].kind, "same-kinds" in {one.code for one in report.findings}) == (
        "gelu_mlp",
        True,
    )
    told = dovetail.inspect(path, set={"projector": "avgpool_mlp"})
    assert told.parts["projector"].kind == "avgpool_mlp"
    assert "same-kinds" not in {one.code for one in told.findings}
    assert errors(dovetail.inspect(path, set={"projector": "linear"})) == [
        "projector is a gelu_mlp by its tensors (`projector.*`) and a linear in --set: projector"
    ]
    with pytest.raises(UsageError, match="projector of family `prismatic` is never a `foo`"):
        dovetail.inspect(path, set={"projector": "foo"})


def test_a_family_that_no_tensor_shows_can_be_said(tmp_path: Path) -> None:
    path = write_listing(tmp_path / "x.json", header_of(plan_of("gemma", MODELS["gemma"][0]), "hf"))
    assert not dovetail.inspect(path).is_whole
    assert dovetail.inspect(path, as_="gemma").family == "gemma"


# -- wrong shapes


def connectors(plan: Blueprint, layout: str) -> list[str]:
    """The stored tensors of projectors, mergers and resamplers."""
    mounts = plan.family.layout(layout).mounts
    roles = [role for role, part in plan.kinds.items() if part.purpose == "connector"]
    prefixes = tuple(mount.prefix for role in roles for mount in mounts[role] if mount.prefix)
    return [one.name for one in plan.stored(plan.family.layout(layout)) if one.name.startswith(prefixes)]


# Of these the first axis is a length of its own, or that of the space where CLIP compares images and texts.
LENGTHS = (".query", ".latents", "_embeddings.weight", "text_projection.weight", "visual_projection.weight")


@pytest.mark.parametrize("family", MODELS)
def test_a_wrong_shape_of_a_connector_names_its_tensor(family: str, tmp_path: Path) -> None:
    for model in MODELS[family][:2]:
        plan = plan_of(family, model)
        layout = next(one.id for one in plan.family.layouts if header_of(plan, one.id))
        header: dict[str, Any] = header_of(plan, layout)
        for name in first_and_last(connectors(plan, layout)):
            dtype, shape = header[name]
            for axis in range(len(shape) if not name.endswith(LENGTHS) else 0):
                wrong = [size + 37 * (i == axis) for i, size in enumerate(shape)]
                report = dovetail.inspect(
                    write_listing(tmp_path / "x.json", {**header, name: [dtype, wrong]})
                )
                found = [one for one in report.findings if one.severity == "error"]
                # of two layers, each may be the one that is unlike the other
                named = {star(tensor) for one in found for tensor in one.tensors}
                assert star(name) in named, (name, axis)
