"""Saves of a training: whole, stamped, opened by others; a run that was cut goes on as if it never was."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from dovetail.errors import CheckpointError, UsageError
from dovetail.train import run_folder
from dovetail.train.module import TrainingModule
from dovetail.train.trainer import Trainer
from models.every_model import CASES
from train.program import DEFAULTS
from train.test_trainer import ROWS, Collate


class Cut(transformers.TrainerCallback):
    """Ends a run in the middle of a step, or of a save."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            raise KeyboardInterrupt


def trainer(
    path: Path, out: Path, *callbacks: Any, known: Any = None, like: Any = None, **args: Any
) -> Trainer:
    given = {"output_dir": str(out), **DEFAULTS, **args}
    module = TrainingModule(dovetail.load(path))
    return Trainer(
        module,
        transformers.TrainingArguments(**given),
        data=ROWS,
        val_data=ROWS[:3],
        collate=Collate(module.model.inputs),
        like=like or path,
        known={"data": "1234", **(known or {})},
        callbacks=callbacks,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: Any) -> Path:
    return CASES["qwen2_vl-0"].made(tmp_path_factory.mktemp("model") / "qwen2_vl")


def losses(one: Trainer) -> dict[int, Any]:
    return {entry["step"]: entry["loss"] for entry in one.state.log_history if "loss" in entry}


def test_a_run_that_was_cut_goes_on_bit_by_bit(path: Path, tmp_path: Path) -> None:
    """Cut in the second epoch; what was saved and logged after that is what it would have been."""
    whole = trainer(path, tmp_path / "whole", max_steps=6, save_steps=3)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(path, tmp_path / "run", Cut(5), max_steps=6, save_steps=3).train()
    (tmp_path / "run" / "checkpoint-6.partial").mkdir()
    (tmp_path / "run" / "checkpoint-6.state").mkdir()
    again = trainer(path, tmp_path / "run", max_steps=6, save_steps=3)
    with pytest.raises(UsageError, match="holds a run already: checkpoint-3"):
        again.train()
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(whole)
    for mine, other in zip(again.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(mine, other)
    names = {"checkpoint-3", "checkpoint-6", "last"}
    assert {one.name for one in (tmp_path / "run").iterdir()} == names
    one, other = (dovetail.fingerprint(tmp_path / run / "last") for run in ("run", "whole"))
    assert one == other

    finished = trainer(path, tmp_path / "run", max_steps=6, save_steps=3)
    assert finished.train(resume_from_checkpoint=True).global_step == 6
    assert losses(finished) == losses(whole)
    for change, message in (
        ({"known": {"data": "5678"}}, r"with other data.*\n.*1234 then, 5678 now"),
        ({"learning_rate": 0.5}, r"with another learning_rate.*\n.*0\.01 then, 0\.5 now"),
        ({"max_steps": 9, "seed": 3}, "with another max_steps and 1 more"),
    ):
        other = trainer(path, tmp_path / "run", **{"max_steps": 6, **change})
        with pytest.raises(UsageError, match=message):
            other.train(resume_from_checkpoint=True)


def test_a_save_is_a_whole_checkpoint_that_says_what_it_is(path: Path, tmp_path: Path) -> None:
    (path / "tokenizer.json").write_text("{}")
    out = tmp_path / "run"
    one = trainer(
        path, out, save_total_limit=2, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True
    )
    one.side_files = (
        lambda said: {"notes.json": json.dumps([said["step"], said["metrics"]["step"]]).encode()},
    )
    one.train()
    best = Path(one.state.best_model_checkpoint)
    assert {place.name for place in out.iterdir()} == {best.name, "checkpoint-6", "last", "best"} | (
        {"checkpoint-4"} if best.name == "checkpoint-6" else set()
    )
    assert (out / "last").resolve().name == "checkpoint-6"
    assert (out / "best").resolve() == best
    assert torch.equal(next(one.module.model.parameters()), next(dovetail.load(out / "best").parameters()))
    report = dovetail.validate(out / "last", values=True)
    assert (report.is_whole, report.layout) == (True, "hf")
    files = {place.name for place in (out / "last").iterdir()}
    assert files >= {
        "config.json",
        "tokenizer.json",
        "trainer_state.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
    }
    assert json.loads((out / "last" / "notes.json").read_text()) == [6, 6]
    stamp = json.loads((out / "last" / "dovetail.json").read_text())
    said = stamp["training"]
    assert (said["step"], said["data"], said["settings"]["seed"]) == (6, "1234", 42)
    assert said["trained"] == ["vision", "merger", "text"]
    assert said["versions"].keys() >= {"dovetail", "torch", "transformers"}
    default = {
        name for name, value in dovetail.inspect(out / "last").config.items() if value.source == "default"
    }
    assert default == set()
    with pytest.raises(UsageError, match="has saves after"):
        trainer(path, out).train(resume_from_checkpoint=str(out / "checkpoint-4"))


def test_what_cannot_be_gone_on_with_is_refused(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trainer(path, out, save_strategy="no", max_steps=1).train()
    assert dovetail.inspect(out / "last").is_whole
    with pytest.raises(CheckpointError, match="has no state of an optimizer"):
        trainer(path, out, save_strategy="no", max_steps=1).train(resume_from_checkpoint=True)
    with pytest.raises(UsageError, match=r"there is no save `.*checkpoint-9` to go on from"):
        trainer(path, out).train(resume_from_checkpoint=str(out / "checkpoint-9"))
    (out / "checkpoint-1" / "training.json").unlink()
    with pytest.raises(CheckpointError, match=r"its training\.json cannot be read"):
        trainer(path, out, max_steps=1).train(resume_from_checkpoint=True)
    late = trainer(path, tmp_path / "late")
    late.reader = "transformer==4"
    with pytest.raises(UsageError, match="no reader is called"):
        late.train()
    assert not run_folder.saves(str(tmp_path / "late"))


def test_one_folder_is_one_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_PATIENCE", 0.0)
    folder = str(tmp_path)
    with (
        run_folder.held(folder),
        pytest.raises(UsageError, match="another run is training"),
        run_folder.held(folder),
    ):
        pass
    with run_folder.held(folder):
        pass
