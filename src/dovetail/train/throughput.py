"""How fast a training runs: samples and tokens a second, memory, and the share of the device's peak.

The share (MFU) counts what the decoder and its head need by their size, as if all of it were trained: 6
operations for each parameter and token, and 12 for each layer, width of heads and pair of tokens that see
each other (arXiv:2204.02311 app. B). Towers are not counted. It is only said where the peak of the device is
known.
"""

import resource
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dovetail.models.language import LanguageModel

# Dense operations a second in bfloat16, by what torch calls the device. Source: NVIDIA's data sheets, without
# sparsity.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
}


class Count:
    """What went into the steps so far: samples, and tokens without padding."""

    def __init__(self) -> None:
        self.samples, self.tokens, self.pairs = 0, 0, 0

    def add(self, batches: list[Mapping[str, Any]]) -> None:
        """Counts the batches of one step on this process."""
        for batch in batches:
            self.samples += len(batch["targets"])
            valid = batch["inputs"].get("valid")
            if valid is not None:
                rows = valid.sum(dim=1)
                self.tokens += int(rows.sum())
                self.pairs += int((rows * rows).sum())


class Throughput(TrainerCallback):
    """Logs the speed every `every` steps: at the end of a step, as the Trainer calls it (`on_step_end`)."""

    def __init__(self, every: int, count: Count, operations: Callable[[int, int], float]) -> None:
        self.every, self.count, self.operations = every, count, operations
        self.log: Callable[[dict[str, float]], None] | None = None
        self._start = (0.0, 0, 0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins to measure."""
        self._begin()

    def _begin(self) -> None:
        count = self.count
        self._start = (perf_counter(), count.samples, count.tokens, count.pairs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Logs what was measured."""
        if state.global_step % self.every == 0 and self.log is not None:
            wanted = control.should_log
            self.log(self.measured(args.world_size))
            control.should_log = wanted  # which logging takes back
            self._begin()

    def measured(self, processes: int) -> dict[str, float]:
        """The speed since the last time, of all processes, if they do alike."""
        start, samples, tokens, pairs = self._start
        seconds = max(perf_counter() - start, 1e-9)
        found = {"samples_per_second": (self.count.samples - samples) * processes / seconds}
        if (read := self.count.tokens - tokens) > 0:
            found["tokens_per_second"] = read * processes / seconds
        found["memory_gib"] = memory() / 2**30
        peak, done = peak_of_device(), self.operations(read, self.count.pairs - pairs)
        if peak is not None and done > 0:
            found["mfu"] = done / seconds / peak
        return {name: float(f"{value:.4g}") for name, value in found.items()}


def memory() -> int:
    """The most bytes that this process has taken, on the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_of_device() -> float | None:
    """The most operations a second that the device can do in bfloat16, where it is known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def operations_of(model: nn.Module) -> Callable[[int, int], float]:
    """How many operations a step of so many tokens and pairs of tokens in a row takes: forward and back."""
    if not isinstance(model, LanguageModel):
        return lambda tokens, pairs: 0.0
    decoder = model.decoder
    blocks = sum(one.numel() for one in decoder.blocks.parameters())
    each = 6.0 * (blocks + model.head_weight.numel())
    config = decoder.config
    of_pair = 6.0 * config.layers * config.q_heads * config.head_dim  # causal: half of all pairs
    return lambda tokens, pairs: each * tokens + of_pair * pairs
