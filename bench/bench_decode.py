"""Generating with Qwen2-VL-2B in bfloat16 on a CPU, beside transformers in the same process.

    python bench/bench_decode.py [FOLDER] [--batch 1 4 16] [--turns 3] [--text] [--weights stored packed int8]

FOLDER is a Qwen2-VL-2B in bfloat16 (any layout that transformers reads); without one, a random one is
made. One image of 448 x 448 and 32 tokens in every row (`--text`: the tokens alone); all ways take turns,
so that a slow minute hits each. A batch of 16 with images takes transformers half an hour where torch has
no bf16 kernels; `--weights` leaves out ways of ours, and their memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

import dovetail
from dovetail.inputs.patches import patches
from dovetail.run.engine import Draw, generate
from measure import TINY_QWEN2_VL, Row, milliseconds, read_speed, show, sized, where

THREADS, NEW = 2, 8
WEIGHTS = ("stored", "packed", "int8")
IMAGE_TOKEN, IMAGE_EDGE, TOKENS = 151655, sized(448, 112), 32


class Times(NamedTuple):
    """Seconds in the tower and its merger, to the first token, and for each further one."""

    vision: float
    first: float
    token: float


Run = Callable[[int, bool], Times]

LIMIT = """
What bounds a token at batch 1 is reading every weight of the decoder once, as fast as a plain sum reads: no
exact way passes the row `memory`. Tried for more and left, with figures in docs/decisions/0009-products.md:
inductor's kernels, huge pages, digits of 7 bits for 8-bit kernels. What is left between `packed` and
`memory` is FBGEMM's kernel (about 0.8 of the memory's speed) and 10 to 30 ms of norms, rotations and casts.
"""


def main() -> None:
    """Measures both and prints a table for each batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--batch", type=int, nargs="+", default=sized([1, 4, 16], [1, 2]))
    parser.add_argument("--turns", type=int, default=sized(3, 1))
    parser.add_argument("--text", action="store_true")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or f"{scratch}/q2vl"
        if options.folder is None:
            dovetail.make("qwen2_vl", folder, size="2b", set=sized({}, TINY_QWEN2_VL))
        print(where("torch", "transformers"), flush=True)
        ways, size = prepared(folder, options.weights)
        speed = 0.0
        for batch in options.batch:
            speed = max(speed, read_speed())
            print(
                f"a token reads {size / 1e9:.2f} GB of weights; memory {speed / 1e9:.0f} GB/s at best so far"
            )
            report(batch, not options.text, ways, options.turns, size / speed)
        print(LIMIT)


def prepared(folder: str, kinds: Sequence[str]) -> tuple[dict[str, Run], int]:
    """The ways to run the model, and the bytes of its decoder's weights."""
    ways: dict[str, Run] = {"transformers, sdpa": transformers_way(folder)}
    plain = dovetail.load(folder)
    size = sum(p.numel() * p.element_size() for p in plain.text.parameters())
    for weights in kinds:
        begin = time.perf_counter()
        model = dovetail.load(folder, weights=weights)
        name = f"dovetail, {weights}" + (" (lossy)" if weights == "int8" else "")
        ways[name] = dovetail_way(model)
        print(f"{name}: ready in {time.perf_counter() - begin:.1f} s", flush=True)
    return ways, size


def report(batch: int, has_image: bool, ways: dict[str, Run], turns: int, limit: float) -> None:
    """The medians of all ways, taking turns after a short run of each."""
    taken: dict[str, list[Times]] = {name: [] for name in ways}
    for run in ways.values():
        run(1, False)
    for _ in range(turns):
        for name, run in ways.items():
            taken[name].append(run(batch, has_image))
    medians = {
        name: Times(*(statistics.median(one[i] for one in found) for i in range(3)))
        for name, found in taken.items()
    }
    base = next(iter(medians.values()))
    rows: list[Row] = [row(name, one, base) for name, one in medians.items()]
    rows.append(("memory (limit)", "", "", "", "", "", "", milliseconds(limit), f"{base.token / limit:.2f}x"))
    columns = ("way", "vision", "", "prefill", "", "first token", "", "per token", "")
    what = f"an image of {IMAGE_EDGE} x {IMAGE_EDGE} and " if has_image else ""
    show(f"batch {batch}: {what}{TOKENS} tokens a row; medians of {turns}", columns, rows)
    print(flush=True)


def row(name: str, one: Times, base: Times) -> Row:
    """A line of the table, each time with how often it goes into transformers'."""
    pairs = [
        (one.vision, base.vision),
        (one.first - one.vision, base.first - base.vision),
        (one.first, base.first),
    ]
    cells = [cell for mine, theirs in pairs for cell in (f"{mine:.2f} s", ratio(theirs, mine))]
    return (name, *cells, milliseconds(one.token), ratio(base.token, one.token))


def ratio(theirs: float, mine: float) -> str:
    return f"{theirs / mine:.2f}x" if mine else ""


def example(batch: int, has_image: bool) -> tuple[list[list[int]], np.ndarray]:
    """Token ids, with one image placeholder if there is an image, and the image."""
    random = np.random.default_rng(0)
    tokens = [int(token) for token in random.integers(100, 10_000, TOKENS)]
    if has_image:
        tokens.insert(4, IMAGE_TOKEN)
    return [tokens] * batch, random.integers(0, 255, (IMAGE_EDGE, IMAGE_EDGE, 3)).astype(np.uint8)


class Watch:
    """When the tower began and its features were there, and when each token was chosen."""

    def __init__(self, first: torch.nn.Module, last: torch.nn.Module) -> None:
        self._begun = self._done = 0.0
        self.stamps: list[float] = []
        first.register_forward_pre_hook(self._begin)
        last.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self._done = time.perf_counter()

    def times(self, run: Callable[[], Any]) -> Times:
        """What a run takes."""
        self._begun = self._done = 0.0
        self.stamps.clear()
        begin = time.perf_counter()
        run()
        further = (self.stamps[-1] - self.stamps[0]) / (len(self.stamps) - 1)
        return Times(self._done - self._begun, self.stamps[0] - begin, further)


def dovetail_way(model: Any) -> Run:
    """Runs dovetail's model."""
    watch = Watch(model.vision, model.merger)

    def choose(logits: torch.Tensor, _draws: Sequence[Draw]) -> torch.Tensor:
        watch.stamps.append(time.perf_counter())
        return logits.argmax(dim=-1)

    def run(batch: int, has_image: bool) -> Times:
        rows, image = example(batch, has_image)
        inputs = model.prepare(rows, [[image]] * batch if has_image else ())
        return watch.times(lambda: generate(model, inputs, max_new_tokens=NEW, choose=choose))

    return run


def transformers_way(folder: str) -> Run:
    """Runs transformers' model on the same pixels."""
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    watch = Watch(model.model.visual, model.model.visual)

    def choose(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        watch.stamps.append(time.perf_counter())
        return scores

    def run(batch: int, has_image: bool) -> Times:
        with torch.inference_mode():
            return watch.times(
                lambda: model.generate(
                    **transformers_inputs(batch, has_image),
                    max_new_tokens=NEW,
                    min_new_tokens=NEW,
                    do_sample=False,
                    logits_processor=[choose],
                )
            )

    return run


def transformers_inputs(batch: int, has_image: bool) -> dict[str, torch.Tensor]:
    """What transformers' processor would make."""
    rows, image = example(batch, has_image)
    cut = patches(image, patch=14, frames=2, merge=2, min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    count = cut.grid[0] * cut.grid[1] * cut.grid[2] // 4
    row = [one for token in rows[0] for one in ([token] * count if token == IMAGE_TOKEN else [token])]
    ids = torch.tensor([row] * batch)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if has_image:
        inputs["mm_token_type_ids"] = (ids == IMAGE_TOKEN).long()
        inputs["pixel_values"] = torch.from_numpy(cut.values).repeat(batch, 1)
        inputs["image_grid_thw"] = torch.tensor([cut.grid] * batch)
    return inputs


if __name__ == "__main__":
    main()
