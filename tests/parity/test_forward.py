"""`validate --forward`: every stage of one run, and the first whose numbers are not finite."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

import dovetail
from commands import dovetail as command
from commands import python
from dovetail.parity.example import example_inputs
from dovetail.parity.forward import forward
from run.tiny import GIVEN, SIZES


def made(id: str, folder: Path, dtype: str = "float32") -> Path:
    """A tiny random model that runs."""
    return Path(dovetail.make(id, folder, set=SIZES[id][0], dtype=dtype, seed=3).path)


@pytest.mark.parametrize("id", SIZES)
def test_every_stage_of_every_family(id: str, tmp_path: Path) -> None:
    model = dovetail.load(made(id, tmp_path / id), settings=GIVEN.get(id), as_=id)
    stages = forward(model)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for role in ("vision", "text", "llm", "expert"):
        part = getattr(model, role, None)
        if part is not None and hasattr(part, "blocks"):
            expected = [f"{role}.blocks.{i}" for i in range(len(part.blocks))]
            ran = [name for name in names if name.startswith(f"{role}.blocks.")]
            assert ran == expected[: len(ran)]
            assert len(ran) >= len(expected) - 1  # Prismatic and LLaVA leave the last one of a tower out
    if hasattr(model, "deepstack"):
        assert [name for name in names if "deepstack" in name] == ["deepstack.0", "deepstack.1"]
    assert names[-1] == "(whole)"
    assert all(stage.not_finite == 0 and stage.largest > 0 and stage.seconds > 0 for stage in stages)
    if id not in ("pi0", "pi05"):
        with torch.no_grad():
            whole = model(**example_inputs(model))
        assert stages[-1].shape == tuple(whole.shape)
        assert stages[-1].largest == float(whole.abs().max())


def spoilt(folder: Path, name: str, value: float) -> Path:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].flatten()[0] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


FAULTS = {
    "model.layers.1.mlp.down_proj.weight": "text.blocks.1",
    "model.norm.weight": "text.norm",
    "model.layers.0.self_attn.q_proj.weight": "text.blocks.0",
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_stage_that_is_not_finite_is_named(name: str, tmp_path: Path) -> None:
    folder = spoilt(made("qwen3", tmp_path / "qwen3"), name, float("nan"))
    assert dovetail.validate(folder).is_whole
    report = dovetail.validate(folder, forward=True)
    (finding,) = (one for one in report.findings if one.severity == "error")
    assert (finding.code, finding.part) == ("forward-not-finite", "text")
    assert finding.message.startswith(f"`{FAULTS[name]}` puts out ")
    assert finding.message.endswith(" numbers, the first stage that does")
    assert not report.is_whole


def test_overflow_in_a_narrow_dtype_is_found(tmp_path: Path) -> None:
    """No weight is NaN or infinite here; only their product is."""
    folder = made("qwen3", tmp_path / "half", "float16")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"].fill_(60000)
    tensors["model.layers.1.post_attention_layernorm.weight"].fill_(900)
    save_file(tensors, folder / "model.safetensors")
    assert dovetail.validate(folder, values=True).is_whole
    report = dovetail.validate(folder, forward=True)
    assert [one.code for one in report.findings if one.severity == "error"] == ["forward-not-finite"]


def test_what_is_not_whole_is_not_run(tmp_path: Path) -> None:
    folder = made("qwen3", tmp_path / "qwen3")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    report = dovetail.validate(folder, forward=True)
    assert report.forward is None
    assert "a forward run (it is not whole)" in report.unchecked


def test_a_value_that_nothing_decides_is_a_finding(tmp_path: Path) -> None:
    folder = made("dinov2", tmp_path / "dinov2")
    (folder / "config.json").unlink(missing_ok=True)
    report = dovetail.validate(folder, forward=True)
    (finding,) = (one for one in report.findings if one.severity == "warning")
    assert (finding.code, report.is_whole, report.forward) == ("not-run", True, None)
    assert finding.message.startswith(
        "the checkpoint is whole, and dovetail cannot run it: to run dinov2, vision.heads must be known"
    )
    assert "a forward run (dovetail cannot run it)" in report.unchecked


@pytest.mark.parametrize("what", ["scaling", "features"])
def test_what_dovetail_cannot_run_is_whole_all_the_same(what: str, tmp_path: Path) -> None:
    """And the command, which did not do what it was asked, ends with 1."""
    family = {"scaling": "qwen2", "features": "llava_onevision"}[what]
    folder = made(family, tmp_path / "it")
    config = json.loads((folder / "config.json").read_text())
    config |= {"scaling": {"rope_scaling": {"rope_type": "yarn", "factor": 2}}}.get(
        what, {"vision_feature_select_strategy": "default"}
    )
    (folder / "config.json").write_text(json.dumps(config))
    answer = command("validate", "it", "--forward", "--json", cwd=tmp_path)
    report = json.loads(answer.out)
    assert (answer.code, report["whole"]) == (1, True)
    message = next(one["message"] for one in report["findings"] if one["code"] == "not-run")
    assert message.startswith("the checkpoint is whole, and dovetail cannot run it: ")
    assert command("validate", "it", cwd=tmp_path).code == 0


def test_the_command(tmp_path: Path) -> None:
    made("qwen3", tmp_path / "qwen3")
    answer = command("validate", "qwen3", "--forward", "--report", "out", cwd=tmp_path)
    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines()]
    start = next(i for i, words in enumerate(lines) if words[:1] == ["forward"])
    assert lines[start] == ["forward", "shape", "dtype", "time", "largest"]
    names = [words[0] for words in lines[start + 1 :] if words][:7]
    assert names == ["text.embed", *(f"text.blocks.{i}" for i in range(3)), "text.norm", "head", "(whole)"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [stage["stage"] for stage in report["forward"]] == names
    assert list(report["forward"][0]) == ["stage", "shape", "dtype", "seconds", "not_finite", "largest"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "One forward run" in page
    assert "text.<wbr>blocks" in page or "text.blocks.1" in page
    plain = json.loads(command("validate", "qwen3", "--json", cwd=tmp_path).out)
    assert plain["forward"] is None


def test_without_it_no_torch_is_imported(tmp_path: Path) -> None:
    made("qwen3", tmp_path / "qwen3")
    code = "import sys, dovetail; dovetail.validate('qwen3'{}); print('torch' in sys.modules)"
    for more, is_there in (("", "False"), (", forward=True", "True")):
        assert python("-c", code.format(more), cwd=tmp_path).out == f"{is_there}\n"
