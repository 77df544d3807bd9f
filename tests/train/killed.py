"""A program that trains in children that it forks, and has each killed by SIGKILL at another place.

    python killed.py '{"path": ..., "data": ..., "folder": ..., "places": ["step", ...], "words": {...}}'

For each place there is a folder with a run that was killed there and went on. What is printed says which saves
were there in between.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import dovetail
from dovetail.edit.write import execute
from dovetail.store.write import publish
from dovetail.train import run_folder
from dovetail.train.run_log import RunLog
from dovetail.train.train import train
from dovetail.train.trainer import Trainer


def die() -> None:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def _at(owner: Any, name: str, number: int, *, after: bool = False) -> None:
    """Dies before or after the call of a function that has this number."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def call(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            die()
        found = real(*args, **more)
        if calls == number:
            die()
        return found

    setattr(owner, name, call)


def _half_a_line() -> None:
    real = RunLog.append

    def append(self: RunLog, entry: Any) -> None:
        if entry["step"] == 5:
            with open(self.path, "a") as file:
                file.write('{"step": 5, "lo')
            die()
        real(self, entry)

    RunLog.append = append  # type: ignore[method-assign]


# Saves are after steps 2, 4 and 6, and one of them is kept.
PLACES: dict[str, Callable[[], None]] = {
    "in the first step": lambda: _at(Trainer, "training_step", 1),
    "in a step": lambda: _at(Trainer, "training_step", 5),
    "between a step and its save": lambda: _at(Trainer, "_save_checkpoint", 2),
    "while the state is written": lambda: _at(torch, "save", 4, after=True),
    "while weights are written": lambda: _at(execute, "write_file", 2, after=True),
    "before a save appears": lambda: _at(publish, "_move", 2),
    "after a save appeared": lambda: _at(run_folder, "rotate", 2),
    "while an old save is removed": lambda: _at(run_folder.shutil, "rmtree", 3),
    "in a line of the log": _half_a_line,
    "after all": lambda: _at(Trainer, "_end", 1),
}


def child(work: Callable[[], None]) -> int:
    """Forks a child that does something; gives the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception as error:  # noqa: BLE001  # a child never comes back
            traceback.print_exception(error)
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a child failed")
    return os.WTERMSIG(status)


def main(told: dict[str, Any]) -> None:
    """All places."""
    words = {"report_to": [], "use_cpu": True, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2}
    words |= {"save_total_limit": 1, "max_steps": 7, "learning_rate": 1e-2, "disable_tqdm": True}
    words |= told["words"]
    folder = Path(told["folder"])

    def go(name: str, *, resume: bool) -> None:
        train(told["path"], data=told["data"], output_dir=folder / name, resume=resume, **words)

    assert child(lambda: go("whole", resume=False)) == 0
    left = {}
    for place in told["places"]:

        def killed(place: str = place) -> None:
            PLACES[place]()
            go(place, resume=False)

        assert child(killed) == signal.SIGKILL, place
        left[place] = [Path(one).name for one in run_folder.saves(str(folder / place)).values()]
        for save in left[place]:
            assert dovetail.validate(folder / place / save, values=True).is_whole, (place, save)
        assert child(lambda place=place: go(place, resume=True)) == 0, place
    print(json.dumps(left))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]))
