"""What a person sees of a run: lines, the log, the curves; and the same after it went on."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dovetail.train.watching import watching
from train.test_saving import Cut, path, trainer

__all__ = ["path"]
WORDS = {"title": "Training of qwen2_vl", "said": {"model": "m"}, "command": "dovetail train --model m"}


@pytest.mark.slow
def test_a_run_that_goes_on_has_one_log(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = {
        "disable_tqdm": False,
        "max_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    one = trainer(path, out, Cut(4), **options)
    with pytest.raises(KeyboardInterrupt), watching(one, **WORDS):
        one.train()
    before = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in before] == [1, 2, 2, 3]
    again = trainer(path, out, **options)
    with watching(again, **WORDS):
        again.train(resume_from_checkpoint=True)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 2, 3, 4, 4, 4]
    assert entries[:3] == before[:3]
    assert entries[3]["loss"] == before[3]["loss"]
    page = (out / "curves.html").read_text()
    assert all(
        word in page for word in ("finished", "all 4 steps", "Learning rate", "Gradient norm", "Accuracy")
    )
    assert (out / "curves.png").is_file()
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line.partition(",")[0].partition(": loss")[0] for line in lines if ": loss" in line] == [
        f"step {step} of 4" for step in (1, 2, 3, 3, 4)
    ]
    assert all(line.endswith(" left") for line in lines if line.startswith("step "))
