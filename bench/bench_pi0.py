"""Acting with pi0 at its true shapes in bfloat16 on a CPU, beside transformers in the same process.

    python bench/bench_pi0.py

Three cameras of 224 x 224, 48 tokens of text, a chunk of 50 actions in 10 steps of Euler's; random weights.
Both run the prefix once; here its keys and values are never copied, and the weights of the expert are
packed once. transformers' model is filled with dovetail's weights, so both do the same work.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

import dovetail
from dovetail.run.fast import made_fast
from measure import Row, show, where

THREADS, TURNS, STEPS, TEXT, PATCHES = 2, 3, 10, 48, 256


def main() -> None:
    """Measures both and prints the table."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/pi0"
        dovetail.make("pi0", folder, layout="transformers")
        print(where("dovetail", "torch", "transformers"))
        runs: dict[str, Callable[[], Any]] = {}
        plain = dovetail.load(folder, dtype="bfloat16")
        runs["dovetail, as loaded"] = lambda: act(plain)
        fast = made_fast(dovetail.load(folder, dtype="bfloat16"))
        runs["dovetail, packed"] = lambda: act(fast)
        theirs = load_transformers(folder)
        race({"transformers PI0": lambda: act_transformers(theirs), **runs})


def race(runs: dict[str, Callable[[], Any]]) -> None:
    """The median times of all, taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    base = next(iter(medians.values()))
    rows: list[Row] = [(name, f"{s:.2f} s", f"{base / s:.2f}x") for name, s in medians.items()]
    show(f"a chunk of 50 actions, {STEPS} steps, {THREADS} threads", ("way", "time", ""), rows)


def example() -> dict[str, torch.Tensor]:
    """Pixels of three cameras, text, state and noise."""
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.rand(3, 1, 3, 224, 224, generator=generator) * 2 - 1,
        "tokens": torch.randint(1, 1000, (1, TEXT), generator=generator),
        "state": torch.randn(1, 32, generator=generator),
        "noise": torch.randn(1, 50, 32, generator=generator),
    }


def act(model: Any) -> torch.Tensor:
    """A chunk from dovetail's model."""
    given = example()
    inputs = model.prepare(
        given["pixels"],
        torch.ones(3, 1, dtype=torch.bool),
        given["tokens"],
        torch.ones(1, TEXT, dtype=torch.bool),
        given["state"],
    )
    actions: torch.Tensor = model.sample_actions(inputs, noise=given["noise"], num_steps=STEPS)
    return actions


def load_transformers(folder: str) -> Any:
    """transformers' PI0 with the same weights."""
    from transformers import PI0ForConditionalGeneration

    return PI0ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()


def act_transformers(model: Any) -> torch.Tensor:
    """A chunk from transformers' model."""
    given = example()
    placeholder = model.config.vlm_config.image_token_id
    ids = torch.cat([torch.full((1, 3 * PATCHES), placeholder), given["tokens"]], dim=1)
    with torch.inference_mode():
        actions: torch.Tensor = model.sample_actions(
            noise=given["noise"],
            num_steps=STEPS,
            state=given["state"].bfloat16(),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=given["pixels"].transpose(0, 1).bfloat16(),
            pixel_attention_mask=torch.ones(1, 3, dtype=torch.bool),
        )
    return actions


if __name__ == "__main__":
    main()
