"""The C-Abstractor equals its mathematics written out."""

from typing import Any

import numpy as np
import pytest
import torch

from dovetail.errors import UsageError
from dovetail.models.resamplers.c_abstractor import CAbstractor, CAbstractorConfig
from models import oracles
from models.oracles import bins, depthwise, linear, norm, randomised, sigmoid, silu, tokens


def config(**changes: Any) -> CAbstractorConfig:
    sizes = {
        "in_dim": 7,
        "hidden_dim": 5,
        "out_dim": 6,
        "depth": 2,
        "kernel": 3,
        "d_inner": 11,
        "d_squeeze": 4,
    }
    return CAbstractorConfig(**{**sizes, "num_queries": 0, "readout": True, **changes})


def block(w: dict[str, np.ndarray], name: str, grid: np.ndarray) -> np.ndarray:
    """The 1 x 1 convolutions are linears over the channels."""
    flat = {
        key: one.reshape(one.shape[:2]) if one.ndim == 4 else one for key, one in w.items() if ".pw" in key
    }
    y = norm(w, f"{name}.norm.norm", depthwise(w, f"{name}.dwconv", grid), 1e-6)
    y = silu(linear(flat, f"{name}.pw1", y))
    squeezed = np.maximum(linear(w, f"{name}.se.fc.0", y.mean((0, 1))), 0)
    y = y * sigmoid(linear(w, f"{name}.se.fc.2", squeezed))
    return grid + linear(flat, f"{name}.pw2", y)


@pytest.mark.parametrize(
    ("length", "grid", "queries", "readout"),
    [
        (9, (3, 3), 0, True),
        (12, (3, 4), 0, False),
        (15, (3, 5), 4, True),
        (16, (4, 4), 9, False),
        (7, (1, 7), 1, True),
    ],
)
def test_the_mathematics_written_out(length: int, grid: tuple[int, int], queries: int, readout: bool) -> None:
    model = randomised(CAbstractor(config(num_queries=queries, readout=readout)))
    w, x = oracles.weights(model), tokens(2, length, 7)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        y = linear(w, "input_proj", row).reshape(*grid, 5)
        for i in range(2):
            y = block(w, f"stage1.{i}", y)
        if queries:
            edge = int(queries**0.5)
            rows, columns = bins(grid[0], edge), bins(grid[1], edge)
            y = np.stack([np.stack([y[r, c].mean((0, 1)) for c in columns]) for r in rows])
        for i in range(2):
            y = block(w, f"stage2.{i}", y)
        y = linear(w, "readout.0", norm(w, "final_norm", y.reshape(-1, 5), 1e-5))
        y = linear(w, "readout.2", silu(y)) if readout else y
        np.testing.assert_allclose(expected, y, atol=1e-12)


def test_queries_that_are_no_square_are_refused() -> None:
    with pytest.raises(UsageError, match="a C-Abstractor has a square number of queries, not 12"):
        CAbstractor(config(num_queries=12))
