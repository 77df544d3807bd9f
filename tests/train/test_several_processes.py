"""Two processes, by torchrun and accelerate launch, give the losses of one; what they save is whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import dovetail
from models.every_model import CASES

PROGRAM = Path(__file__).with_name("program.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SETTINGS = ("--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", *SETTINGS)  # the program says that it is a cpu
HOMES = (Path(dovetail.__file__).parents[1], PROGRAM.parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, HOMES)), "OMP_NUM_THREADS": "1"}
FSDP = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["Block"]}}


def ran(
    words: tuple[str, ...], path: Path, out: Path, *, resume: bool = False, **args: Any
) -> list[list[float]]:
    told = {"path": str(path), "out": str(out), "resume": resume, "args": args}
    command = [sys.executable, *words, str(PROGRAM), json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((out / "losses-0.json").read_text())


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    path = CASES["qwen2_vl-0"].made(tmp_path / "model")
    one = ran((), path, tmp_path / "one", per_device_train_batch_size=4)

    def check(name: str, found: list[list[float]]) -> None:
        assert [row[0] for row in found] == [row[0] for row in one], name
        for (_, *mine), (_, *whole) in zip(found, one, strict=True):
            assert mine == pytest.approx(whole, rel=1e-3), name
        place = tmp_path / name / "last"
        assert dovetail.validate(place, values=True).is_whole, name
        assert not [file.name for file in place.iterdir() if "pytorch_model" in file.name]

    check("ddp", ran(TORCHRUN, path, tmp_path / "ddp"))
    halves = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
    }
    check("halves", ran(TORCHRUN, path, tmp_path / "halves", **halves))
    check("fsdp", ran(TORCHRUN, path, tmp_path / "fsdp", **FSDP))
    shutil.rmtree(tmp_path / "fsdp" / "checkpoint-6")
    check("fsdp", ran(TORCHRUN, path, tmp_path / "fsdp", resume=True, **FSDP))


@pytest.mark.slow
def test_accelerate_launches_it_too(tmp_path: Path) -> None:
    path = CASES["qwen2_vl-0"].made(tmp_path / "model")
    one = ran((), path, tmp_path / "one", max_steps=2, per_device_train_batch_size=4)
    two = ran(LAUNCH, path, tmp_path / "two", max_steps=2)
    assert two[-1][1] == pytest.approx(one[-1][1], rel=1e-3)
