"""One product in every way that `dovetail.models.products` has, beside torch's `linear`, in one process.

    python bench/bench_products.py

Weights are those of Qwen2-VL-2B's MLP (8960 x 1536, bfloat16), enough of them that no cache holds them; the
ways take turns. Few rows are bound by memory, so they are given in bytes of bfloat16 weights a second (of
8 bits: as many weights); many rows by arithmetic. `ready` is what it takes to lay a weight out.
"""

import statistics
import time

import torch
from torch.nn import functional as F

from dovetail.models.products import Make, Product, Stored, fbgemm, int8, is_native, kernels, onednn
from measure import Row, read_speed, show, sized, where

THREADS, TURNS, WEIGHTS = 2, sized(5, 1), sized(12, 1)
WIDE, NARROW = sized((8960, 1536), (256, 128))
FEW, MANY = (1, 4, 16), (64, 288)


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """torch's own."""
    return lambda x: F.linear(x, weight, bias)


def main() -> None:
    """Measures all and prints the table."""
    torch.set_num_threads(THREADS)
    cpu = torch.device("cpu")
    makes: dict[str, Make] = {"torch linear": linear, "stored": Stored, "int8 (lossy)": int8}
    if is_native(torch.bfloat16):
        makes["onednn"] = onednn
    if kernels(torch.float16, cpu) == "fbgemm":
        makes["fbgemm"] = fbgemm
    weights = [torch.randn(WIDE, NARROW).mul_(0.02).bfloat16() for _ in range(WEIGHTS)]
    ready: dict[str, float] = {}
    ways: dict[str, list[Product]] = {}
    for name, make in makes.items():
        begin = time.perf_counter()
        ways[name] = [make(weight, None) for weight in weights]
        ready[name] = (time.perf_counter() - begin) / (WEIGHTS * WIDE * NARROW)
    taken = race(ways)
    print(where("torch"))
    print(f"{THREADS} threads; a plain sum reads {read_speed() / 1e9:.0f} GB/s")
    rows: list[Row] = []
    for name in ways:
        few = [f"{2 * WEIGHTS * WIDE * NARROW / taken[name, m] / 1e9:.1f}" for m in FEW]
        many = [f"{2 * m * WEIGHTS * WIDE * NARROW / taken[name, m] / 1e9:.0f}" for m in MANY]
        rows.append((name, *few, *many, f"{ready[name] * 1e9:.1f}"))
    heads = [*(f"{m} rows, GB/s" for m in FEW), *(f"{m} rows, GFLOP/s" for m in MANY)]
    show(f"A weight of {WIDE} x {NARROW}, bfloat16", ("way", *heads, "ready, ns a weight"), rows)


@torch.inference_mode()
def race(ways: dict[str, list[Product]]) -> dict[tuple[str, int], float]:
    """The median time of one pass over all weights, for every way and number of rows, taking turns."""
    taken: dict[tuple[str, int], list[float]] = {}
    for rows in (*FEW, *MANY):
        x = torch.randn(rows, NARROW).bfloat16()
        for turn in range(TURNS + 1):
            for name, products in ways.items():
                begin = time.perf_counter()
                for product in products:
                    product(x)
                if turn:
                    taken.setdefault((name, rows), []).append(time.perf_counter() - begin)
    return {key: statistics.median(times) for key, times in taken.items()}


if __name__ == "__main__":
    main()
