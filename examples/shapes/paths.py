"""Trains a pi0 of a million parameters to draw a line to the shape that it is told.

    python -m examples.shapes.paths OUT          28 minutes on one core

The state is where the pen is, an action is where it goes, in pixels; 8 actions are a straight way to the
middle of the shape. Pictures, colours, held-out pairs and the schedule are those of `recipe.py`.
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import dovetail
from examples.shapes.muon import Muon
from examples.shapes.scenes import (
    COLORS,
    EDGE,
    FORMS,
    HELD_OUT,
    MORE_COLORS,
    MORE_FORMS,
    Scene,
    Shape,
    drawn,
    drawn_scene,
)

PAD, END, BEGIN, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unk>"
WORDS = ("draw", "a", "line", "to", "the", *COLORS, *MORE_COLORS, *FORMS, *MORE_FORMS)
VOCABULARY = (PAD, END, BEGIN, UNKNOWN, *WORDS)
_IDS = {word: i for i, word in enumerate(VOCABULARY)}
HORIZON = 8
SIZES = {
    "vision.layers": 3,
    "vision.d_vision": 96,
    "vision.heads": 3,
    "vision.d_ff": 288,
    "vision.patch": 7,
    "vision.positions": 64,
    "vision.channels": 3,
    "vlm.layers": 4,
    "vlm.d_model": 128,
    "vlm.q_heads": 4,
    "vlm.kv_heads": 1,
    "vlm.head_dim": 32,
    "vlm.d_ff": 256,
    "vlm.vocab": 32,
    "expert.d_model": 64,
    "expert.d_ff": 128,
    "heads.d_action": 2,
    "heads.d_state": 2,
    "action_horizon": HORIZON,
}
MEAN, STD = EDGE / 2, 14.0  # of pixels, near those of the data
SEED, ROWS, DRAWS = 0, 48, 4  # DRAWS: noises and times for each picture of a step
MATRIX_RATE, OTHER_RATE, DECAY, MORE, WARM_UP = 0.012, 2e-3, 0.01, 0.35, 100


class Stage(NamedTuple):
    """Steps in which rates rise, stay for a share of the steps, and fall to nothing."""

    steps: int
    numbers: int  # the seed's second number
    first: float  # the share of the steps in colours that come in every form
    rate: float  # the share of the rates
    constant: float


# The second goes on from the weights as they are stored, with optimizers that know nothing.
STAGES = (Stage(2900, 200, 0.18, 1.0, 0.3), Stage(1250, 210, 0.0, 0.6, 0.2))
STEPS = sum(stage.steps for stage in STAGES)
NEAR = 4  # pixels from the middle of the shape
WHITENING, CHECKING, TESTING = range(201, 204)


class Lines(NamedTuple):
    """Pictures with what is to be drawn: inputs of the policy, actions in its numbers, targets in pixels."""

    inputs: dict[str, Tensor]
    actions: Tensor
    goals: np.ndarray


def drawn_lines(
    random: np.random.Generator, rows: int, *, pairs: list[str], is_held_out: bool = False
) -> Lines:
    """Pictures and instructions; picture `i` of `pairs[i % n]`."""
    pictures, tokens, goals = np.empty((rows, EDGE, EDGE, 3), np.uint8), [], []
    while len(goals) < rows:
        scene = drawn_scene(random, pairs=pairs[len(goals) % len(pairs)], is_held_out=is_held_out)
        one = goal(random, scene, is_held_out=is_held_out)
        if one is None:
            continue
        pictures[len(goals)] = drawn(random, scene)
        tokens.append([_IDS[word] for word in (BEGIN, *instruction(one.pair).split())])
        goals.append((one.x, one.y))
    ends = np.array(goals, np.float32)
    state = random.uniform(0, EDGE, size=(rows, 2)).astype(np.float32)
    share = np.arange(1, HORIZON + 1, dtype=np.float32)[None, :, None] / HORIZON
    ways = state[:, None] + share * (ends - state)[:, None]
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    inputs = {
        "pixels": pixels[None].contiguous(),
        "image_masks": torch.ones(1, rows, dtype=torch.bool),
        "tokens": torch.tensor(tokens),
        "token_mask": torch.ones(rows, len(tokens[0]), dtype=torch.bool),
        "state": torch.from_numpy((state - MEAN) / STD),
    }
    return Lines(inputs, torch.from_numpy((ways - MEAN) / STD), ends)


def goal(random: np.random.Generator, scene: Scene, *, is_held_out: bool) -> Shape | None:
    """A shape that words can name, with `is_held_out` one of a held-out pair; None if there is none."""
    named = [one.pair for one in scene]
    known = [one for one in scene if named.count(one.pair) == 1 and (one.pair in HELD_OUT or not is_held_out)]
    return known[int(random.integers(len(known)))] if known else None


def instruction(pair: tuple[str, str]) -> str:
    """What the policy is told."""
    return f"draw a line to the {pair[0]} {pair[1]}"


@torch.no_grad()
def distances(model: Any, lines: Lines, seed: int = 0) -> np.ndarray:
    """How far from the middle of the shape each line ends, in pixels."""
    noise = model.noise(lines.inputs, torch.Generator().manual_seed(seed))
    actions = model.sample_actions(lines.inputs, noise=noise)[:, -1].float().numpy() * STD + MEAN
    return np.linalg.norm(actions - lines.goals, axis=1)


def accuracy(model: Any, random: np.random.Generator, number: int, *, is_held_out: bool = False) -> float:
    """The share of lines that end near the middle of the named shape."""
    found = [
        distances(model, drawn_lines(random, 50, pairs=["named"], is_held_out=is_held_out))
        for _ in range(0, number, 50)
    ]
    return float((np.concatenate(found) <= NEAR).mean())


def made(out: Path, seed: int) -> None:
    """A checkpoint of the right sizes with its tokenizer and statistics; its weights are random."""
    dovetail.make("pi0", out, set=SIZES, dtype="float32", seed=seed)
    words = Tokenizer(models.WordLevel(_IDS, unk_token=UNKNOWN))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    words.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in VOCABULARY[:4]])
    words.save(str(out / "tokenizer.json"))
    named = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    numbers = {"mean": [MEAN, MEAN], "std": [STD, STD]}
    for name, values in {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **named},
        "norm_stats.json": {"norm_stats": {"state": numbers, "actions": numbers}},
    }.items():
        (out / name).write_text(json.dumps(values, indent=2) + "\n")


@torch.no_grad()
def begin(model: Any, seed: int) -> None:
    """First values by the width of what comes in, and whitened patches."""
    random = torch.Generator().manual_seed(seed)
    for name, one in model.named_parameters():
        if one.ndim == 2:
            is_last = name.endswith(("attn.o.weight", "mlp.fc2.weight", "mlp.down.weight"))
            size = 0.02 if "pos" in name else one.shape[1] ** -0.5
            one.normal_(std=0.4 * size if is_last else size, generator=random)
    lines = drawn_lines(np.random.default_rng([seed, WHITENING]), 500, pairs=["all"])
    weight = model.vision.patch_embed.weight
    cut = nn.functional.unfold(lines.inputs["pixels"][0], weight.shape[-1], stride=weight.shape[-1])
    values = cut.transpose(1, 2).flatten(0, 1).double()
    variances, directions = torch.linalg.eigh(torch.cov(values.T))
    largest = variances.argsort(descending=True)[: len(weight)]
    kept = (directions[:, largest] / variances[largest].clamp(min=1e-3).sqrt()).T
    weight.copy_(kept.float().reshape(weight.shape))


def trained(pattern: Path, seed: int, stages: Sequence[Stage] = STAGES, *, every: int) -> Any:
    """The trained policy: bfloat16, with heads in float32 as pi0 has them."""
    model: Any = dovetail.load(pattern)
    begin(model, seed)
    runner: Any = dovetail.load(pattern, dtype="bfloat16")
    runner.heads.float()
    names = [name for name, _ in model.named_parameters() if name not in model.unreachable]
    whole, small = ([dict(one.named_parameters())[name] for name in names] for one in (model, runner))
    for one in whole:
        one.grad = torch.zeros_like(one)
    for stage in stages:
        _train(stage, seed, runner, dict(zip(names, whole, strict=True)), small, every=every)
        with torch.no_grad():
            torch._foreach_copy_(small, whole)
            torch._foreach_copy_(whole, small)
    return runner


def _train(
    stage: Stage, seed: int, runner: Any, named: dict[str, Tensor], small: list[Tensor], *, every: int
) -> None:
    """The steps of a stage: `named` are the float32 parameters, `small` those of the policy that runs."""
    whole = list(named.values())
    matrices = [name for name, one in named.items() if one.ndim == 2 and "embed" not in name]
    muon = Muon([(named[name], 1) for name in matrices], weight_decay=DECAY)
    rest = [one for name, one in named.items() if name not in matrices]
    others = torch.optim.AdamW(rest, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    random, drawing = np.random.default_rng([seed, stage.numbers]), torch.Generator().manual_seed(seed)
    begun, losses, many = time.monotonic(), [], round(MORE * ROWS)
    for step in range(stage.steps):
        is_first = step < stage.first * stage.steps
        pairs = ["more"] if is_first else ["all"] * many + ["named"] * (ROWS - many)
        losses.append(_step(runner, drawn_lines(random, ROWS, pairs=pairs), whole, small, drawing))
        done = (step / stage.steps - stage.constant) / (1 - stage.constant)
        share = min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * max(0, done)))
        muon.step(MATRIX_RATE * stage.rate * share)
        others.param_groups[0]["lr"] = OTHER_RATE * stage.rate * share
        others.step()
        if (step + 1) % every == 0 or step + 1 == stage.steps:
            _look(runner, seed, step + 1, time.monotonic() - begun, sum(losses[-100:]) / len(losses[-100:]))


def _look(runner: Any, seed: int, step: int, seconds: float, loss: float) -> None:
    """Prints a line of JSON with the share of lines that end near by now, on pictures of its own."""
    near = {
        name: accuracy(runner, np.random.default_rng([seed, CHECKING, i]), 100, is_held_out=bool(i))
        for i, name in enumerate(("known pairs", "held out"))
    }
    print(json.dumps({"step": step, "seconds": round(seconds), "loss": round(loss, 4), **near}), flush=True)


def _step(
    runner: Any, lines: Lines, whole: list[Tensor], small: list[Tensor], drawing: torch.Generator
) -> float:
    """Gradients of the float32 parameters from a pass in bfloat16: one prefix, several noises and times."""
    with torch.no_grad():
        torch._foreach_copy_(small, whole)
    total = torch.zeros(())
    with sdpa_kernel(SDPBackend.MATH):
        prefix = runner.prefix(lines.inputs)
        for _ in range(DRAWS):
            noise = torch.randn(lines.actions.shape, generator=drawing)
            t = torch.rand(len(noise), generator=drawing) ** (1 / 1.5) * 0.999 + 0.001
            share = t[:, None, None]
            x_t = share * noise + (1 - share) * lines.actions
            velocity = runner.velocity(lines.inputs, x_t, t, prefix=prefix)
            total = total + nn.functional.mse_loss(velocity, noise - lines.actions) / DRAWS
        total.backward()
    torch._foreach_copy_([one.grad for one in whole], [one.grad for one in small])
    for one in small:
        one.grad = None
    nn.utils.clip_grad_norm_(whole, 1.0)
    return total.item()


def main(words: list[str]) -> int:
    """Trains and writes the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m examples.shapes.paths", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--every", type=int, default=300, help="steps between looks at the accuracy")
    options = parser.parse_args(words)
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another name")
    torch.set_num_threads(1)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with tempfile.TemporaryDirectory() as folder:
        pattern, out = Path(folder, "paths"), options.out.absolute()
        made(pattern, options.seed)
        policy = trained(pattern, options.seed, every=options.every)
        written(policy, pattern, out, seed=options.seed)
    return 0


def written(policy: Any, pattern: Path, out: Path, *, seed: int) -> None:
    """Writes the trained policy as a checkpoint whose certificate says how it was made."""
    training = {"recipe": "examples/shapes/paths.py", "seed": seed, "steps": STEPS, "rows": ROWS}
    with contextlib.chdir(pattern.parent):  # the certificate says what the policy was like by this name
        dovetail.save(policy, out, like=pattern.name, facts={"training": training})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
