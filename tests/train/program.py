"""A training as a program of its own: what `test_several_processes.py` and `test_kill.py` start and kill.

    python program.py '{"path": ..., "out": ..., "args": {...}, "resume": true}'

Every process writes the losses of all steps that it logged into `losses-RANK.json` in the folder of the run.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

import dovetail
from dovetail.train.lora import Lora, add_lora
from dovetail.train.module import TrainingModule
from dovetail.train.trainer import Trainer
from train.test_trainer import ROWS, Collate

DEFAULTS = {
    "use_cpu": True,
    "remove_unused_columns": False,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 1,
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "max_grad_norm": 0.5,
    "dataloader_pin_memory": False,
}


def made(told: dict[str, Any], *callbacks: Any) -> Trainer:
    """The trainer that a run is told to make."""
    model: Any = dovetail.load(told["path"])
    lora = Lora(**told["lora"]) if "lora" in told else None
    if lora is not None:
        add_lora(model, lora)
    return Trainer(
        TrainingModule(model),
        transformers.TrainingArguments(output_dir=told["out"], **{**DEFAULTS, **told.get("args", {})}),
        data=ROWS,
        val_data=ROWS[:3],
        collate=Collate(model.inputs),
        like=told["path"],
        lora=lora,
        callbacks=callbacks,
    )


def losses(one: Trainer) -> list[list[Any]]:
    """The step, the loss and the norm of the gradient of each step that was logged."""
    return [
        [entry["step"], entry["loss"], entry["grad_norm"]]
        for entry in one.state.log_history
        if "loss" in entry
    ]


def run(told: dict[str, Any]) -> None:
    """Trains, and writes down the losses."""
    one = made(told)
    one.train(resume_from_checkpoint=told.get("resume"))
    rank = os.environ.get("RANK", "0")
    Path(told["out"], f"losses-{rank}.json").write_text(json.dumps(losses(one)))


if __name__ == "__main__":
    torch.manual_seed(0)
    run(json.loads(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo ends with SIGABRT now and then, after all is done
