"""kill -9 anywhere: the last save is whole, and the run that goes on from it is the run that never was cut."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import dovetail
from train import beds

PROGRAM = Path(__file__).with_name("killed.py")
HOMES = (Path(dovetail.__file__).parents[1], PROGRAM.parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, HOMES)), "OMP_NUM_THREADS": "1"}
EACH = {  # the saves that are there after the kill
    "in the first step": [],
    "in a step": ["checkpoint-4"],
    "between a step and its save": ["checkpoint-2"],
    "while the state is written": ["checkpoint-2"],
    "while weights are written": ["checkpoint-2"],
    "before a save appears": ["checkpoint-2"],
    "after a save appeared": ["checkpoint-2", "checkpoint-4"],
    "while an old save is removed": ["checkpoint-4"],
    "in a line of the log": ["checkpoint-4"],
    "after all": ["checkpoint-7"],
}


def logged(run: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


def check(folder: Path, places: dict[str, list[str]], **words: Any) -> None:
    """`places` are where it is killed, with the saves that are there then."""
    path, data = beds.model(folder / "model"), beds.manifest(folder / "data", samples=10)
    told = {
        "path": str(path),
        "data": str(data),
        "folder": str(folder),
        "places": list(places),
        "words": words,
    }
    command = [sys.executable, str(PROGRAM), json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    left = json.loads(done.stdout.splitlines()[-1])
    assert left == places
    whole = logged(folder / "whole")
    assert [step for step, *_ in whole] == [1, 2, 3, 4, 5, 6, 7]
    mark = dovetail.fingerprint(folder / "whole" / "last")
    for place in places:
        assert logged(folder / place) == whole, place
        assert dovetail.fingerprint(folder / place / "last") == mark, place
        names = {one.name for one in (folder / place).iterdir()}
        assert names == {"checkpoint-7", "last", "log.jsonl", "curves.html", "curves.png"}, place
        states = [
            torch.load(folder / run / "last" / "optimizer.pt", weights_only=True)["state"]
            for run in (place, "whole")
        ]
        for mine, other in zip(*(state.values() for state in states), strict=True):
            assert all(torch.equal(mine[name], other[name]) for name in mine), place


@pytest.mark.slow
def test_a_run_goes_on_wherever_it_was_killed(tmp_path: Path) -> None:
    check(tmp_path, EACH, per_device_train_batch_size=4)


@pytest.mark.slow
def test_a_packed_run_with_workers_goes_on(tmp_path: Path) -> None:
    """Groups of an epoch, with the batches of two workers on their way."""
    places = {"in a step": ["checkpoint-2"], "before a save appears": ["checkpoint-2"]}  # 2 batches a step
    check(
        tmp_path,
        places,
        packing=True,
        pack_tokens=70,
        dataloader_num_workers=2,
        gradient_accumulation_steps=2,
    )


@pytest.mark.slow
def test_a_run_by_length_goes_on(tmp_path: Path) -> None:
    check(
        tmp_path,
        {"in a step": ["checkpoint-4"]},
        length_grouping=True,
        per_device_train_batch_size=3,
        weight_decay=0.1,
    )
