"""Trains a Qwen2-VL of a million parameters from nothing until it sees coloured shapes.

    python -m examples.shapes.recipe OUT                20 minutes on one core
    python -m examples.shapes.recipe OUT --steps 400    two minutes: it learns, and is no good yet

OUT is a checkpoint like any other, with tokenizer, chat template and image processor. The same seed and steps
give the same file on the same processor. What decides, and what was tried: README.md.
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dovetail
from examples.shapes.batches import Batch, patches, random_batch
from examples.shapes.learner import Learner, accuracy
from examples.shapes.muon import Muon
from examples.shapes.questions import KINDS
from examples.shapes.tokenizer import CONTEXT, write_side_files
from examples.shapes.words import IMAGE, VIDEO, VISION_END, VISION_START, VOCAB, ids

SIZES = {
    "vision.layers": 3,
    "vision.d_vision": 96,
    "vision.heads": 3,
    "vision.d_ff": 288,
    "vision.patch": 7,
    "vision.frames": 2,
    "merger.merge_area": 4,
    "text.layers": 3,
    "text.d_model": 128,
    "text.q_heads": 4,
    "text.kv_heads": 2,
    "text.head_dim": 32,
    "text.d_ff": 256,
    "text.vocab": VOCAB,
}
SETTINGS = {
    "image_token": ids(IMAGE)[0],
    "video_token": ids(VIDEO)[0],
    "vision_start_token": ids(VISION_START)[0],
    "vision_end_token": ids(VISION_END)[0],
    "rope_theta": 100.0,
    "max_positions": CONTEXT,
}
SEED, STEPS, ROWS = 0, 4600, 48
# The share of steps in colours that come in every form, and later that of pictures of all colours and forms.
FIRST, MORE = 0.18, 0.35
MATRIX_RATE, OTHER_RATE, DECAY = 0.012, 2e-3, 0.01
WARM_UP, CONSTANT = 100, 0.3  # steps; the share of them before the rate falls
# What is asked of three pictures out of three. Counts are the hardest; descriptions teach the most.
ASKED = ((*KINDS, "relation"), (*KINDS, "count"), (*KINDS, "count"))
# Who draws from which numbers: no picture that is trained on is tested on.
TRAINING, WHITENING, CHECKING, TESTING = range(4)


def main(words: list[str]) -> int:
    """Trains, writes the checkpoint, and says how good it is."""
    parser = argparse.ArgumentParser(prog="python -m examples.shapes.recipe", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--every", type=int, default=500, help="steps between looks at the accuracy")
    options = parser.parse_args(words)
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another name")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pattern, out = Path(folder, "shapes"), options.out.absolute()
        made(pattern, options.seed)
        model = trained(pattern, options.seed, options.steps, every=options.every)
        written(model, pattern, out, seed=options.seed, steps=options.steps)
    return 0


def written(model: Any, pattern: Path, out: Path, *, seed: int, steps: int) -> None:
    """Writes the trained model as a checkpoint whose certificate says how it was made."""
    training = {"recipe": "examples/shapes/recipe.py", "seed": seed, "steps": steps, "rows": ROWS}
    with contextlib.chdir(pattern.parent):  # the certificate says what the model was like by this name
        dovetail.save(model, out, like=pattern.name, facts={"training": training})


def made(out: Path, seed: int) -> None:
    """A checkpoint of the right sizes and settings, with tokenizer and all; its weights are random."""
    dovetail.make("qwen2_vl", out, set={**SIZES, **SETTINGS}, dtype="float32", seed=seed)
    write_side_files(out)


def trained(pattern: Path, seed: int, steps: int, *, every: int) -> Any:
    """The trained model, in bfloat16."""
    model: Any = dovetail.load(pattern)
    begin(model, seed)
    runner: Any = dovetail.load(pattern, dtype="bfloat16")
    learner = Learner(runner)
    whole, small = (list(dict(sorted(one.named_parameters())).values()) for one in (model, runner))
    for one in whole:
        one.grad = torch.zeros_like(one)
    muon, others = steppers(model)
    random = np.random.default_rng([seed, TRAINING])
    begun, losses = time.monotonic(), []
    for step in range(steps):
        losses.append(_step(learner, drawn_batch(random, step / steps), whole, small))
        rate = _rate(step, steps)
        muon.step(MATRIX_RATE * rate)
        others.param_groups[0]["lr"] = OTHER_RATE * rate
        others.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            _look(learner, seed, step + 1, time.monotonic() - begun, sum(losses[-100:]) / len(losses[-100:]))
    with torch.no_grad():
        torch._foreach_copy_(small, whole)
    return runner


def drawn_batch(random: np.random.Generator, share: float) -> Batch:
    """The pictures of a step, by the share of all steps that are done."""
    many = round(MORE * ROWS)
    pairs = ["more"] if share < FIRST else ["all"] * many + ["named"] * (ROWS - many)
    return random_batch(random, ROWS, pairs=pairs, kinds=ASKED)


def _step(learner: Learner, batch: Batch, whole: list[Tensor], small: list[Tensor]) -> float:
    """Gradients of the float32 parameters, from a pass in bfloat16; the loss."""
    with torch.no_grad():
        torch._foreach_copy_(small, whole)
    loss = learner.loss(batch)
    loss.backward()
    torch._foreach_copy_([one.grad for one in whole], [one.grad for one in small])
    for one in small:
        one.grad = None
    nn.utils.clip_grad_norm_(whole, 1.0)
    return loss.item()


def _rate(step: int, steps: int) -> float:
    """The share of the rates at a step: up, constant, and along a cosine to nothing."""
    done = (step / steps - CONSTANT) / (1 - CONSTANT)
    return min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * max(0, done)))


def _look(learner: Learner, seed: int, step: int, seconds: float, loss: float) -> None:
    """Prints a line of JSON with what it can do by now, on pictures of its own."""
    found = {
        name: accuracy(learner, np.random.default_rng([seed, CHECKING, i]), 100, is_held_out=bool(i))
        for i, name in enumerate(("known pairs", "held out"))
    }
    print(json.dumps({"step": step, "seconds": round(seconds), "loss": round(loss, 4), **found}), flush=True)


@torch.no_grad()
def begin(model: Any, seed: int) -> None:
    """Sets the first values: every matrix keeps the size of what passes, and patches are whitened."""
    random = torch.Generator().manual_seed(seed)
    for name, one in model.named_parameters():
        if one.ndim == 2:
            size = 0.02 if name == "text.embed.weight" else one.shape[1] ** -0.5
            is_last = name.endswith(("attn.o.weight", "mlp.fc2.weight", "mlp.down.weight"))
            one.normal_(std=0.4 * size if is_last else size, generator=random)
    weight = model.vision.patch_embed.weight
    pictures = random_batch(np.random.default_rng([seed, WHITENING]), 500, pairs=["all"]).pictures
    weight.copy_(torch.from_numpy(_whitening(patches(pictures), len(weight))).reshape(weight.shape))


def _whitening(values: np.ndarray, width: int) -> np.ndarray:
    """The map of patches to their first principal components, each of variance 1."""
    variances, directions = np.linalg.eigh(np.cov(values.T.astype(np.float64)))
    largest = np.argsort(variances)[::-1][:width]
    return (directions[:, largest] / np.sqrt(variances[largest].clip(1e-3))).T.astype(np.float32)


def steppers(model: Any) -> tuple[Muon, torch.optim.AdamW]:
    """What moves the matrices, and what moves the rest: the token table, patches, norms, biases."""
    pieces = {name: 3 for name, _ in model.named_parameters() if name.endswith("qkv.weight")}
    pieces["merger.fc1.weight"] = 4  # whole, it takes as long as all the others
    named = dict(model.named_parameters())
    matrices = [name for name, one in named.items() if one.ndim == 2 and name != "text.embed.weight"]
    muon = Muon([(named[name], pieces.get(name, 1)) for name in matrices], weight_decay=DECAY)
    rest = [one for name, one in named.items() if name not in matrices]
    return muon, torch.optim.AdamW(rest, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
