"""A checkpoint held against the certificate beside it: headers by `inspect`, values by `validate`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file

import dovetail
from dovetail.names import star
from dovetail.report import Finding, Report
from files import MODELS
from homes import homes

EVERY = [(id, number) for id in MODELS for number in range(len(MODELS[id])) if homes(id, number)]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Qwen2 with a certificate."""
    dovetail.make("qwen2", tmp_path / "made", set=MODELS["qwen2"][0], dtype="float32", seed=5)
    dovetail.convert(tmp_path / "made", tmp_path / "it")
    return tmp_path / "it"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The folder with another certificate."""
    path = folder / "dovetail.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """The folder with other weights."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def errors(report: Report) -> list[Finding]:
    """What is wrong."""
    return [finding for finding in report.findings if finding.severity == "error"]


@pytest.mark.parametrize(("family", "number"), EVERY)
def test_what_convert_writes_fits_its_certificate(family: str, number: int, tmp_path: Path) -> None:
    """In every layout; with shards, other dtypes and parts left out as well."""
    first, *others = homes(family, number)
    dovetail.make(family, tmp_path / "a", layout=first, set=MODELS[family][number], dtype="float32", seed=3)
    for layout in (first, *others):
        changes = {"dtype": ["*norm*=float64"]} if layout == first else {"max_shard_size": 90_000}
        dovetail.convert(tmp_path / "a", tmp_path / layout, to=layout, **changes)
        report = dovetail.validate(tmp_path / layout, values=True)
        assert errors(report) == []
        assert report.unchecked == ()


def test_a_part_that_was_left_out_is_no_other_checkpoint(tmp_path: Path) -> None:
    dovetail.make("qwen2_vl", tmp_path / "a", set=MODELS["qwen2_vl"][0])
    changes = {"without": ["vision", "merger"]}
    dovetail.convert(tmp_path / "a", tmp_path / "b", **changes)
    report = dovetail.validate(tmp_path / "b", values=True)
    assert "other-certificate" not in {finding.code for finding in report.findings}


def test_changed_values_are_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors[UP].view(-1)[9].add_(1))
    assert dovetail.validate(folder).is_whole
    (finding,) = errors(dovetail.validate(folder, values=True))
    assert (finding.code, finding.tensors) == ("content", (UP,))
    assert finding.message.startswith("`text.blocks.1.mlp.up.weight` of 38 tensors: the values are not those")


def test_other_values_everywhere_are_another_checkpoint(folder: Path, tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "other", set=MODELS["qwen2"][0], dtype="float32", seed=6)
    shutil.copy(folder / "dovetail.json", tmp_path / "other")
    assert dovetail.validate(tmp_path / "other").is_whole  # the headers are the same
    (finding,) = errors(dovetail.validate(tmp_path / "other", values=True))
    assert finding.code == "other-certificate"
    assert "is the certificate of another checkpoint" in finding.message


def test_the_certificate_of_another_family_is_not_believed(folder: Path, tmp_path: Path) -> None:
    dovetail.make("siglip", tmp_path / "other", set=MODELS["siglip"][0], dtype="float32")
    shutil.copy(folder / "dovetail.json", tmp_path / "other")
    report = dovetail.inspect(tmp_path / "other")
    (finding,) = errors(report)
    assert finding.code == "other-certificate"
    assert "it is about qwen2, the tensors are siglip" in finding.message
    assert "stamp" not in {value.source for value in report.config.values()}


def test_the_certificate_of_another_size_is_not_believed(folder: Path, tmp_path: Path) -> None:
    sizes = {**MODELS["qwen2"][0], "text.d_model": 67}
    dovetail.make("qwen2", tmp_path / "other", set=sizes, dtype="float32")
    shutil.copy(folder / "dovetail.json", tmp_path / "other")
    (finding,) = errors(dovetail.inspect(tmp_path / "other"))
    assert finding.code == "other-certificate"
    assert "`text.embed.weight` (and " in finding.message
    assert "F32 [211, 67] here and F32 [211, 61] in it" in finding.message


def test_a_tensor_of_another_dtype_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({UP: tensors[UP].half()}))
    (finding,) = errors(dovetail.inspect(folder))
    assert finding.code == "certificate-leaves"
    assert finding.message == (
        "dovetail.json does not fit the file: "
        "`text.blocks.1.mlp.up.weight` is F16 [83, 61] here and F32 [83, 61] in it"
    )


def test_a_head_that_came_later_is_named(folder: Path) -> None:
    head = torch.zeros(211, 61)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    (finding,) = errors(dovetail.inspect(folder))
    assert finding.message.endswith("1 tensor here and not in it: `head.weight`")


def test_a_later_schema_is_not_guessed_at(folder: Path) -> None:
    edit(folder, lambda values: values.update(schema=2))
    report = dovetail.inspect(folder)
    (finding,) = errors(report)
    assert finding.code == "certificate-schema"
    assert finding.message.startswith("dovetail.json has schema 2, this dovetail reads schema 1")
    assert "stamp" not in {value.source for value in report.config.values()}


def test_an_edited_fingerprint_is_found(folder: Path) -> None:
    edit(folder, lambda values: values.update(fingerprint="0" * 64))
    (finding,) = errors(dovetail.validate(folder, values=True))
    assert finding.code == "content"
    assert "its own hashes give" in finding.message


def test_without_hashes_the_content_is_not_checked(folder: Path) -> None:
    edit(folder, lambda values: values.update(leaves=dict.fromkeys(values["leaves"]), fingerprint=None))
    report = dovetail.validate(folder, values=True)
    assert report.is_whole
    assert report.unchecked == ("content (dovetail.json has no hashes)",)


@pytest.mark.parametrize(
    "values",
    [
        {"leaves": []},
        {"leaves": {"a": 3}, "leaf_table": {"text.embed.weight": [1]}},
        {"leaf_table": 7},
        {"family": 7, "parts": [], "config": 3, "init": [1], "allowed": {"a": 1}},
        {"schema": [1]},
    ],
    ids=str,
)
def test_a_certificate_of_nonsense_breaks_nothing(values: dict[str, Any], folder: Path) -> None:
    edit(folder, lambda old: old.update(values))
    dovetail.inspect(folder)
    dovetail.validate(folder, values=True)


def test_one_weights_file_has_a_certificate_of_its_own(folder: Path) -> None:
    """It comes before that of the folder, which may be about another file."""
    (folder / "dovetail.json").rename(folder / "model.dovetail.json")
    (folder / "dovetail.json").write_text('{"schema": 1, "family": "siglip"}')
    report = dovetail.validate(folder / "model.safetensors", values=True)
    assert report.is_whole
    assert report.unchecked == ()
    edit_path = folder / "model.dovetail.json"
    values = json.loads(edit_path.read_text())
    edit_path.write_text(json.dumps({**values, "config": {"text.q_heads": 4, "text.layers": 9}}))
    (finding,) = errors(dovetail.inspect(folder / "model.safetensors"))
    assert finding.message.endswith("9 in model.dovetail.json: config.text.layers")


def test_progress_counts_both_readings(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    dovetail.validate(folder, values=True, progress=lambda done, total: told.append((done, total)))
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)


def test_every_key_is_documented(folder: Path) -> None:
    """In docs/reference/certificate.md, and nothing that no certificate has."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "certificate.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    dovetail.split(folder, folder.parent / "nodes", nodes=2)
    written = json.loads((folder / "dovetail.json").read_text()).keys()
    node = json.loads((folder.parent / "nodes" / "node0" / "dovetail.json").read_text()).keys()
    assert documented == {*written, *node, "set_aside"}  # the last where a contradiction was settled


def test_the_fingerprint_follows_from_the_certificate_alone(folder: Path) -> None:
    values = json.loads((folder / "dovetail.json").read_text())
    table = values["leaf_table"]
    lines = [
        f"{name} {table.get(name) or table[star(name)]} {digest}\n"
        for name, digest in values["leaves"].items()
    ]
    assert blake3(("qwen2\n" + "".join(sorted(lines))).encode()).hexdigest() == values["fingerprint"]
