"""A run as it can be watched: a bar with the loss and the time left, `log.jsonl`, and the curves of it.

    with watching(trainer, title=..., said=..., command=...):
        trainer.train()

On a terminal there is a bar; elsewhere each step that is logged is a line. Both go to stderr.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from dovetail.render.curves import number
from dovetail.train.curves import write_curves
from dovetail.train.run_log import RunLog
from dovetail.train.saving import SavingTrainer

# So many seconds pass at least before curves are drawn anew while a run goes on.
_PAUSE = 60.0
_SHOWN = ("loss", "eval_loss", "eval_token_accuracy", "eval_exact_answers", "grad_norm", "tokens_per_second")


@contextmanager
def watching(
    trainer: SavingTrainer, *, title: str, said: Mapping[str, str], command: str, is_quiet: bool = False
) -> Iterator[None]:
    """Logs, draws and shows what a trainer does inside. `said` is what the run is, for the page."""
    for others in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(others)
    is_shown = not is_quiet and not trainer.args.disable_tqdm
    files = RunFiles(trainer.folder, title=title, said=said, command=command)
    shown = _Bar() if sys.stderr.isatty() else _Lines()
    trainer.add_callback(files)
    if is_shown:
        trainer.add_callback(shown)
    try:
        yield
    finally:
        shown.stop()
        for one in (files, shown) if is_shown else (files,):
            trainer.remove_callback(one)


class RunFiles(TrainerCallback):
    """`log.jsonl`, `curves.html` and `curves.png` in the folder of a run, by the first process."""

    def __init__(self, folder: str, *, title: str, said: Mapping[str, str], command: str) -> None:
        self.folder, self.title, self.said, self.command = folder, title, dict(said), command
        self.log = RunLog(folder)
        self._drawn = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """What an earlier run logged after this step will be there again."""
        if state.is_world_process_zero:
            self.log.keep_until(state.global_step or -1)
            self._drawn = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """A line, and the curves once in a while."""
        if state.is_world_process_zero:
            self.log.append({"step": state.global_step, "time": round(time.time(), 3), **(logs or {})})
            if time.monotonic() > self._drawn + _PAUSE:
                self._draw(state, is_finished=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The curves of all of it."""
        if state.is_world_process_zero:
            self._draw(state, is_finished=True)

    def _draw(self, state: TrainerState, *, is_finished: bool) -> None:
        write_curves(
            self.folder,
            title=self.title,
            said=self.said,
            total=state.max_steps,
            is_finished=is_finished and state.global_step >= state.max_steps,
            command=self.command,
        )
        self._drawn = time.monotonic()


class _Lines(TrainerCallback):
    """A line on stderr for each step that is logged."""

    def __init__(self) -> None:
        self._begin, self._first = time.monotonic(), 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins to measure the time."""
        self._begin, self._first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Says the step, what was logged, and the time left."""
        words = said_of(logs or {})
        if state.is_world_process_zero and words:
            self._say(state, words)

    def _say(self, state: TrainerState, words: str) -> None:
        place = f"step {state.global_step} of {state.max_steps}"
        print(f"{place}: {words}, {left(self._left(state))}", file=sys.stderr, flush=True)  # noqa: T201

    def _left(self, state: TrainerState) -> float | None:
        """The seconds left, None before the first step."""
        done = state.global_step - self._first
        each = (time.monotonic() - self._begin) / done if done else None
        return None if each is None else each * (state.max_steps - state.global_step)

    def stop(self) -> None:
        """Nothing is left to be done."""


class _Bar(_Lines):
    """A bar on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Draws the bar."""
        super().on_train_begin(args, state, control)
        if not state.is_world_process_zero:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.add_task("step", total=state.max_steps, completed=state.global_step, words="")
        self._bar.start()
        self._words = ""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Moves the bar."""
        if self._bar is not None:
            words = ", ".join(filter(None, (self._words, left(self._left(state)))))
            self._bar.update(self._bar.task_ids[0], completed=state.global_step, words=words)

    def _say(self, state: TrainerState, words: str) -> None:
        self._words = words

    def stop(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()


def said_of(logs: Mapping[str, Any]) -> str:
    """What was logged, in a few words.

    >>> said_of({"loss": 1.23456, "eval_loss": 2, "epoch": 1.0, "grad_norm": float("nan")})
    'loss 1.235, eval_loss 2, grad_norm nan'
    """
    return ", ".join(f"{name} {number(float(logs[name]))}" for name in _SHOWN if name in logs)


def left(seconds: float | None) -> str:
    """The time left, in words.

    >>> left(3725.4), left(None)
    ('1:02:05 left', 'time left not known yet')
    """
    if seconds is None:
        return "time left not known yet"
    return f"{timedelta(seconds=int(seconds))} left"
