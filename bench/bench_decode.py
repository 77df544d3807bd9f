"""Generating with Qwen2-VL-2B in bfloat16 on a CPU, beside transformers in the same process.

    python bench/bench_decode.py [FOLDER]

FOLDER is a Qwen2-VL-2B in bfloat16 (any layout that transformers reads); without one, a random one is
made. One image of 448 x 448 and 32 tokens; both sides take turns, so that a slow minute hits both.
The memory limit of one token is what reading every weight of the decoder once takes, by a plain sum.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import dovetail
from dovetail.run.fast import made_fast
from measure import Row, milliseconds, read_speed, show, where

THREADS, TURNS, NEW = 2, 3, 8
IMAGE_TOKEN = 151655


def main() -> None:
    """Measures both and prints the table."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = sys.argv[1] if len(sys.argv) > 1 else f"{scratch}/q2vl"
        if len(sys.argv) == 1:
            dovetail.make("qwen2_vl", folder, size="2b")
        compare(folder)


def compare(folder: str) -> None:
    """Every way to run the model, at batch 1, 4 and 16."""
    from transformers import Qwen2VLForConditionalGeneration

    theirs = Qwen2VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    ours: dict[str, Any] = {"dovetail, stored": made_fast(dovetail.load(folder), "stored")}
    ours["dovetail, packed"] = made_fast(dovetail.load(folder))
    ours["dovetail, int8 (lossy)"] = made_fast(dovetail.load(folder), "int8")
    print(where("dovetail", "torch", "transformers"))
    weights = sum(p.numel() * 2 for p in ours["dovetail, stored"].text.parameters())
    speed = read_speed()
    print(
        f"{THREADS} threads; weights read for a token: {weights / 1e9:.2f} GB, at {speed / 1e9:.0f} GB/s "
        f"{milliseconds(weights / speed)}"
    )
    for batch in (1, 4, 16):
        runs: dict[str, Callable[[], tuple[float, float]]] = {
            "transformers, sdpa": lambda batch=batch: run_transformers(theirs, batch)
        }
        for name, model in ours.items():
            runs[name] = lambda model=model, batch=batch: run_dovetail(model, batch)
        report(batch, runs)


def report(batch: int, runs: dict[str, Callable[[], tuple[float, float]]]) -> None:
    """The medians of all ways, taking turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            found = run()
            if turn:
                taken[name].append(found)
    rows: list[Row] = []
    base: tuple[float, float] | None = None
    for name, found in taken.items():
        first, token = (statistics.median(one[i] for one in found) for i in (0, 1))
        base = base or (first, token)
        rows.append(
            (
                name,
                f"{first:.2f} s",
                f"{base[0] / first:.2f}x",
                milliseconds(token),
                f"{base[1] / token:.2f}x",
            )
        )
    show(f"batch {batch}", ("way", "first token", "", "per token", ""), rows)


def example(batch: int) -> tuple[list[list[int]], np.ndarray]:
    """Token ids with one image placeholder, and a 448 x 448 image."""
    random = np.random.default_rng(0)
    row = [int(token) for token in random.integers(100, 10_000, 32)]
    row.insert(4, IMAGE_TOKEN)
    return [row] * batch, random.integers(0, 255, (448, 448, 3)).astype(np.uint8)


def run_dovetail(model: Any, batch: int) -> tuple[float, float]:
    """Seconds to the first token and for each further one."""
    rows, image = example(batch)
    inputs = model.prepare(rows, [[image]] * batch)
    stamps: list[float] = []

    def choose(logits: torch.Tensor) -> torch.Tensor:
        stamps.append(time.perf_counter())
        return logits.argmax(dim=-1)

    begin = time.perf_counter()
    model.generate(inputs, max_new_tokens=NEW, choose=choose)
    return stamps[0] - begin, (stamps[-1] - stamps[0]) / (NEW - 1)


def run_transformers(model: Any, batch: int) -> tuple[float, float]:
    """The same with the same pixels."""
    from dovetail.data.patches import patches

    rows, image = example(batch)
    cut = patches(
        image,
        patch=14,
        frames=2,
        merge=2,
        min_pixels=56 * 56,
        max_pixels=28 * 28 * 1280,
    )
    count = cut.grid[0] * cut.grid[1] * cut.grid[2] // 4
    row = [one for token in rows[0] for one in ([token] * count if token == IMAGE_TOKEN else [token])]
    ids = torch.tensor([row] * batch)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE_TOKEN).long(),
        "pixel_values": torch.from_numpy(cut.values).repeat(batch, 1),
        "image_grid_thw": torch.tensor([cut.grid] * batch),
    }
    stamps: list[float] = []

    class Watch:
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            stamps.append(time.perf_counter())
            return scores

    begin = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            **inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, logits_processor=[Watch()]
        )
    return stamps[0] - begin, (stamps[-1] - stamps[0]) / (NEW - 1)


if __name__ == "__main__":
    main()
