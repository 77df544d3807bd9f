"""Claim: none, a comparison: the three attention schedules of LLaVA-OneVision, taught to see coloured shapes.

One set of first values, one order of pictures (`examples/shapes`), equal steps: base looks everywhere before
it, `alternating` keeps to a modality in odd layers, `alternating_cross` to the other one. The figures are of
tiny models after minutes on one core; 100 questions of each kind, asked alone.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measure import Row, show, sized, where

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.shapes.batches import IGNORED, parts, random_batch
from examples.shapes.muon import Muon
from examples.shapes.questions import KINDS, Question
from examples.shapes.words import IMAGE, USER, VIDEO, VOCAB, ids

import dovetail

VARIANTS = ("base", "alternating", "alternating_cross")
SIZES = {
    "vision.layers": 3,
    "vision.d_vision": 96,
    "vision.heads": 3,
    "vision.d_ff": 288,
    "vision.patch": 7,
    "vision.positions": 64,
    "vision.channels": 3,
    "projector.levels": 1,
    "text.layers": 5,
    "text.d_model": 128,
    "text.q_heads": 4,
    "text.kv_heads": 2,
    "text.head_dim": 32,
    "text.d_ff": 256,
    "text.vocab": VOCAB,
    "image_token": ids(IMAGE)[0],
    "video_token": ids(VIDEO)[0],
    "rope_theta": 100.0,
    "grid_pinpoints": [[56, 56]],
}
STEPS, ROWS, EACH = sized(700, 2), sized(32, 2), sized(100, 2)
Inputs = tuple[dict[str, Any], torch.Tensor]


def main() -> None:
    print(where("torch"))
    torch.set_num_threads(1)
    rows = [measured(variant) for variant in VARIANTS]
    columns = ("variant", *KINDS, "average", "held out", "training", "one answer")
    show(f"{STEPS} steps of {ROWS} pictures with 6 questions each, float32", columns, rows)


def measured(variant: str) -> Row:
    """The accuracy of a variant after training, and its speed."""
    with tempfile.TemporaryDirectory() as folder:
        dovetail.make(
            "llava_onevision", Path(folder, "a"), set={**SIZES, "variant": variant}, dtype="float32", seed=1
        )
        model: Any = dovetail.load(Path(folder, "a"))
    begin(model)
    start = time.perf_counter()
    train(model)
    speed = STEPS * ROWS / (time.perf_counter() - start)
    start = time.perf_counter()
    known, number = accuracy(model, is_held_out=False)
    each = (time.perf_counter() - start) / number
    held, _ = accuracy(model, is_held_out=True)
    shares = [*known.values(), mean(known), mean(held)]
    return (
        variant,
        *(f"{100 * one:.0f}%" for one in shares),
        f"{speed:.0f} pictures/s",
        f"{1000 * each:.1f} ms",
    )


def mean(shares: dict[str, float]) -> float:
    return sum(shares.values()) / len(shares)


@torch.no_grad()
def begin(model: Any) -> None:
    """First values by the width of what comes in, the same for every variant."""
    random = torch.Generator().manual_seed(0)
    for name, one in model.named_parameters():
        if one.ndim >= 2:
            is_table = "embed.weight" in name and "patch" not in name
            one.normal_(std=0.02 if is_table else one[0].numel() ** -0.5, generator=random)


def train(model: Any) -> None:
    """Muon for matrices, AdamW for the rest; up, constant, and down to nothing."""
    reached = {name: one for name, one in model.named_parameters() if name not in model.unreachable}
    matrices = [name for name, one in reached.items() if one.ndim == 2 and "embed" not in name]
    muon = Muon([(reached[name], 1) for name in matrices], weight_decay=0.01)
    rest = [one for name, one in reached.items() if name not in matrices]
    others = torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    random = np.random.default_rng(0)
    for step in range(STEPS):
        inputs, targets = in_turns(model, random)
        model.loss(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(reached.values(), 1.0)
        rate = min(1.0, (step + 1) / 50, 2 * (STEPS - step) / STEPS)
        muon.step(0.012 * rate)
        others.param_groups[0]["lr"] = 2e-3 * rate
        others.step()
        model.zero_grad()


def in_turns(model: Any, random: np.random.Generator) -> Inputs:
    """Pictures and what is learnt of them: all questions of a picture one after the other in one row."""
    batch = random_batch(random, ROWS, pairs=["all", "named"], kinds=[(*KINDS, "count")])
    rows, learnt = [], []
    for of in batch.questions:
        row, targets = [], []
        for question in of:
            asking, answer = parts(question)
            begun = [*ids(USER), *([] if row else ids(IMAGE)), *asking]
            row += begun + answer
            targets += [IGNORED] * len(begun) + answer
        rows.append(row)
        learnt.append(targets)
    inputs = model.prepare(rows, [[one] for one in batch.pictures], pad="right")
    return inputs, aligned(inputs, learnt)


def aligned(inputs: dict[str, Any], learnt: list[list[int]]) -> torch.Tensor:
    """Targets for every column: rows grew where the picture stands, which is before all that is learnt."""
    found = torch.full(inputs["tokens"].shape, IGNORED)
    for row, (targets, valid) in enumerate(zip(learnt, inputs["valid"], strict=True)):
        length, grown = int(valid.sum()), len(targets)
        found[row, length - grown + 2 : length] = torch.tensor(targets[2:])
    return found


@torch.no_grad()
def accuracy(model: Any, *, is_held_out: bool) -> tuple[dict[str, float], int]:
    """The share of right answers by kind, and how many questions were asked, each alone."""
    random = np.random.default_rng([1, int(is_held_out)])
    found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    number = 0
    for asked in groups(random, is_held_out=is_held_out):
        rows, learnt = [], []
        for question, _ in asked:
            asking, answer = parts(question)
            rows.append([*ids(USER), *ids(IMAGE), *asking, *answer])
            learnt.append([IGNORED] * (2 + len(asking)) + answer)
        inputs = model.prepare(rows, [[picture] for _, picture in asked], pad="right")
        targets = aligned(inputs, learnt)[:, 1:]
        right = (model(**inputs)[:, :-1].argmax(dim=-1) == targets) | (targets == IGNORED)
        for (question, _), is_right in zip(asked, right.all(dim=1).tolist(), strict=True):
            found[question.kind].append(is_right)
        number += len(asked)
        if min(map(len, found.values())) >= EACH:
            break
    return {kind: sum(of[:EACH]) / EACH for kind, of in found.items()}, number


def groups(random: np.random.Generator, *, is_held_out: bool) -> Iterator[list[tuple[Question, np.ndarray]]]:
    """Questions and their pictures, endlessly."""
    while True:
        batch = random_batch(random, 16, pairs=["named"], is_held_out=is_held_out)
        yield [(one, batch.pictures[i]) for i, of in enumerate(batch.questions) for one in of]


if __name__ == "__main__":
    main()
