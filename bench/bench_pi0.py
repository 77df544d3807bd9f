"""Acting with pi0 at its true shapes in bfloat16 on a CPU, beside transformers in the same process.

    python bench/bench_pi0.py [FOLDER] [--turns 1]

FOLDER is a pi0 in bfloat16 as transformers writes it; without one, a random one is made (7 GB). Three
cameras of 224 x 224, 48 tokens of text, a chunk of 50 actions in 10 steps of Euler's. Both sides run the
prefix once. Here its keys and values are copied once, and weights may be packed once. transformers reads
the same file, so both do the same work.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import dovetail
from measure import Row, show, sized, where

THREADS, STEPS, TEXT, PATCHES = 2, 10, 48, 256
TINY: dict[str, int | str] = {
    "vision.layers": 1,
    "vision.d_vision": 32,
    "vision.heads": 2,
    "vision.d_ff": 64,
    "vlm.layers": 1,
    "vlm.d_model": 64,
    "vlm.q_heads": 2,
    "vlm.kv_heads": 1,
    "vlm.head_dim": 16,
    "vlm.d_ff": 96,
    "expert.d_model": 32,
    "expert.d_ff": 48,
}


class Times(NamedTuple):
    """Seconds for a chunk of actions, and for each step of Euler's in it."""

    chunk: float
    step: float


def main() -> None:
    """Measures both and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or f"{scratch}/pi0"
        if options.folder is None:
            made = sized({}, TINY)
            dovetail.make("pi0", folder, layout="transformers", dtype="bfloat16", set=made)
        print(where("torch", "transformers"), flush=True)
        race(prepared(folder), options.turns)


def prepared(folder: str) -> dict[str, Callable[[], Times]]:
    """Every way to run the policy."""
    # the config of another size says nothing that transformers would build it from
    ways = sized({"transformers PI0, sdpa": transformers_way}, {})
    ways = {name: way(folder) for name, way in ways.items()}
    for weights in ("stored", "packed"):
        begin = time.perf_counter()
        model = dovetail.load(folder, weights=weights)
        ways[f"dovetail, {weights}"] = dovetail_way(model)
        print(f"dovetail, {weights}: ready in {time.perf_counter() - begin:.1f} s", flush=True)
    return ways


def race(ways: dict[str, Callable[[], Times]], turns: int) -> None:
    """The median times of all, taking turns."""
    taken: dict[str, list[Times]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, run in ways.items():
            taken[name].append(run())
    medians = {
        name: Times(*(statistics.median(one[i] for one in found) for i in (0, 1)))
        for name, found in taken.items()
    }
    base = next(iter(medians.values()))
    rows: list[Row] = [
        (
            name,
            f"{one.chunk:.2f} s",
            f"{base.chunk / one.chunk:.2f}x",
            f"{one.step:.3f} s",
            f"{base.step / one.step:.2f}x",
        )
        for name, one in medians.items()
    ]
    title = f"a chunk of 50 actions, {STEPS} steps, bfloat16, {THREADS} threads; medians of {turns}"
    show(title, ("way", "chunk", "", "a step", ""), rows)


def example() -> dict[str, torch.Tensor]:
    """Pixels of three cameras, text, state and noise."""
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.rand(3, 1, 3, 224, 224, generator=generator) * 2 - 1,
        "tokens": torch.randint(1, 1000, (1, TEXT), generator=generator),
        "state": torch.randn(1, 32, generator=generator),
        "noise": torch.randn(1, 50, 32, generator=generator),
    }


def timed_run(stamps: list[float], run: Callable[[], Any]) -> Times:
    """What a run takes that leaves a stamp at the end of each step."""
    stamps.clear()
    begin = time.perf_counter()
    run()
    return Times(time.perf_counter() - begin, (stamps[-1] - stamps[0]) / (STEPS - 1))


def dovetail_way(model: Any) -> Callable[[], Times]:
    """Acts with dovetail's model."""
    given, stamps, action_out = example(), [], model.action_out

    def stamped(y: torch.Tensor) -> torch.Tensor:
        stamps.append(time.perf_counter())
        return action_out(y)

    model.action_out = stamped
    inputs = model.prepare(
        given["pixels"],
        torch.ones(3, 1, dtype=torch.bool),
        given["tokens"],
        torch.ones(1, TEXT, dtype=torch.bool),
        given["state"],
    )
    return lambda: timed_run(
        stamps, lambda: model.sample_actions(inputs, noise=given["noise"], num_steps=STEPS)
    )


def transformers_way(folder: str) -> Callable[[], Times]:
    """Acts with transformers' model."""
    from transformers import PI0ForConditionalGeneration

    model = PI0ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    stamps: list[float] = []
    model.action_out_proj.register_forward_hook(lambda *_: stamps.append(time.perf_counter()))
    given = example()
    placeholder = model.config.vlm_config.image_token_id
    ids = torch.cat([torch.full((1, 3 * PATCHES), placeholder), given["tokens"]], dim=1)
    inputs = {
        "state": given["state"].bfloat16(),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": given["pixels"].transpose(0, 1).bfloat16(),
        "pixel_attention_mask": torch.ones(1, 3, dtype=torch.bool),
    }

    def run() -> None:
        with torch.inference_mode():
            model.sample_actions(noise=given["noise"].bfloat16(), num_steps=STEPS, **inputs)

    return lambda: timed_run(stamps, run)


if __name__ == "__main__":
    main()
