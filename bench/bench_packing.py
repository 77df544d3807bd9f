"""Training steps over rows of mixed lengths: padded, padded among like lengths, and packed.

    python bench/bench_packing.py [--samples 64] [--threads 1] [--turns 3]

A small random Qwen2-VL in float32 on a CPU; the logarithms of lengths are spread evenly, a third of the rows
has an image. Each way goes through the same samples: forward, backward, one step of AdamW a batch. Tokens are
those of the samples: padding counts for nothing. All ways take turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

import dovetail
from dovetail.data.grouping import grouped_by_length, grouped_to_budget
from measure import Row, show, sized, where

SIZES: dict[str, int | str] = {
    "text.layers": sized(4, 2),
    "text.d_model": 256,
    "text.q_heads": 4,
    "text.kv_heads": 2,
    "text.head_dim": 64,
    "text.d_ff": 1024,
    "text.vocab": 4000,
    "vision.layers": 4,
    "vision.d_vision": 192,
    "vision.heads": 3,
    "vision.d_ff": 768,
}
IMAGE_TOKEN, EDGE = 3999, 224
SHORTEST, LONGEST = 16, sized(1024, 128)
BATCH = 8


class Sample(NamedTuple):
    """A row of tokens, and its image if it has one."""

    tokens: list[int]
    images: list[np.ndarray]
    length: int


class Way(NamedTuple):
    """How samples become batches."""

    groups: list[list[int]]
    is_packed: bool


def main() -> None:
    """Measures the three ways and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=sized(64, 12))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=sized(3, 1))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        dovetail.make("qwen2_vl", f"{folder}/model", set=SIZES, dtype="float32", seed=0)
        model = dovetail.load(f"{folder}/model", settings={"image_token": IMAGE_TOKEN})
        count = sum(one.numel() for one in model.parameters())
        print(f"{where('torch')}; {count / 1e6:.0f} M parameters, threads: {options.threads}", flush=True)
        report(model, made(model, options.samples), options.turns)


def made(model: Any, count: int) -> list[Sample]:
    """The samples, the same every time."""
    draw = np.random.default_rng(0)
    found = []
    for i in range(count):
        length = int(np.exp(draw.uniform(np.log(SHORTEST), np.log(LONGEST))))
        tokens = draw.integers(0, IMAGE_TOKEN - 1, length).tolist()
        images = []
        if i % 3 == 0:
            tokens[1] = IMAGE_TOKEN
            images = [draw.integers(0, 256, (EDGE, EDGE, 3), np.uint8)]
        found.append(
            Sample(tokens, images, len(model.inputs.expanded(tokens, [one.shape[:2] for one in images])))
        )
    return found


def report(model: Any, samples: list[Sample], turns: int) -> None:
    """Tokens a second of each way, the median of some turns."""
    lengths = [sample.length for sample in samples]
    order = np.random.default_rng(1).permutation(len(samples)).tolist()
    budget = max(sum(lengths) // (len(samples) // BATCH), *lengths)
    ways = {
        f"padded, {BATCH} rows": Way([order[i : i + BATCH] for i in range(0, len(order), BATCH)], False),
        f"padded, {BATCH} rows of like lengths": Way(list(grouped_by_length(lengths, BATCH)), False),
        f"packed to {budget} tokens": Way(list(grouped_to_budget(lengths, budget)), True),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            taken[name].append(epoch(model, samples, way))
    rows: list[Row] = []
    first = 0.0
    for name, way in ways.items():
        seconds = statistics.median(taken[name])
        first = first or seconds
        rows.append(
            (
                name,
                str(len(way.groups)),
                f"{padding(lengths, way):.0%}",
                f"{sum(lengths) / seconds:,.0f}",
                f"{first / seconds:.2f}",
            )
        )
    title = f"{len(samples)} samples of {min(lengths)} to {max(lengths)} tokens, {sum(lengths):,} in all"
    show(title, ("way", "steps", "padding", "tokens/s", "ratio"), rows)


def padding(lengths: list[int], way: Way) -> float:
    """The share of computed tokens that is padding."""
    if way.is_packed:
        return 0.0
    computed = sum(max(lengths[i] for i in group) * len(group) for group in way.groups)
    return 1 - sum(lengths) / computed


def epoch(model: Any, samples: list[Sample], way: Way) -> float:
    """Seconds of training on all samples; making batches is not counted."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return sum(step(model, optimizer, [samples[i] for i in group], way.is_packed) for group in way.groups)


def step(model: Any, optimizer: torch.optim.Optimizer, rows: Iterable[Sample], is_packed: bool) -> float:
    """Seconds of one step."""
    rows = list(rows)
    inputs = model.prepare([row.tokens for row in rows], [row.images for row in rows], pad="right")
    targets = inputs["tokens"].masked_fill(~inputs["valid"] | (inputs["tokens"] == IMAGE_TOKEN), -100)
    begin = time.perf_counter()
    model.loss(inputs, targets, is_packed=is_packed).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
