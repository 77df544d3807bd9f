"""The MLP, the pools and the plain projection equal their mathematics written out."""

from typing import Any

import numpy as np
import pytest
import torch

from dovetail.errors import UsageError
from dovetail.models.resamplers.mlp import Mlp, MlpConfig
from dovetail.models.resamplers.pools import ConvPool, ConvPoolConfig, Pool, PoolConfig
from models import oracles
from models.oracles import bins, gelu, linear, norm, randomised, tokens

SIZES = {"in_dim": 7, "hidden_dim": 11, "out_dim": 5}


def mlp(w: dict[str, np.ndarray], name: str, x: np.ndarray, *, depth: int, use_ln: bool) -> np.ndarray:
    step = 3 if use_ln else 2
    for i in range(depth - 1):
        x = linear(w, f"{name}.{i * step}", x)
        x = gelu(norm(w, f"{name}.{i * step + 1}", x, 1e-5) if use_ln else x)
    return linear(w, f"{name}.{(depth - 1) * step}", x)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("use_ln", [True, False])
@pytest.mark.parametrize(
    ("pool_tokens", "pool_type"), [(0, "avg"), (4, "avg"), (4, "max"), (10, "avg"), (9, "max")]
)
def test_mlp(depth: int, use_ln: bool, pool_tokens: int, pool_type: str) -> None:
    config = MlpConfig(**SIZES, depth=depth, use_ln=use_ln, pool_tokens=pool_tokens, pool_type=pool_type)
    model = randomised(Mlp(config))
    w, x = oracles.weights(model), tokens(2, 9, 7)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        y = mlp(w, "mlp", row, depth=depth, use_ln=use_ln)
        if pool_tokens == 4:
            y = np.stack([(y[part].mean(0) if pool_type == "avg" else y[part].max(0)) for part in bins(9, 4)])
        np.testing.assert_allclose(expected, y, atol=1e-12)


def squares(x: np.ndarray, grid: tuple[int, int], size: int) -> list[np.ndarray]:
    """The tokens of each whole square of the grid; zeros follow the tokens."""
    filled = np.zeros((grid[0] * grid[1], x.shape[1]))
    filled[: len(x)] = x
    image = filled.reshape(*grid, -1)
    return [
        image[i * size : (i + 1) * size, j * size : (j + 1) * size]
        for i in range(grid[0] // size)
        for j in range(grid[1] // size)
    ]


GRIDS = [(16, (4, 4)), (15, (4, 4)), (18, (5, 4)), (20, (5, 4))]


@pytest.mark.parametrize(("length", "grid"), GRIDS)
@pytest.mark.parametrize("mode", ["average", "max"])
def test_spatial_pool(length: int, grid: tuple[int, int], mode: str) -> None:
    config = PoolConfig(
        **SIZES, depth=2, use_ln=True, resampler_type="spatial_pool", pool_mode=mode, pool_size=2
    )
    model = randomised(Pool(config))
    w, x = oracles.weights(model), tokens(2, length, 7)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        pooled = [one.mean((0, 1)) if mode == "average" else one.max((0, 1)) for one in squares(row, grid, 2)]
        y = mlp(w, "proj", np.stack(pooled), depth=2, use_ln=True)
        np.testing.assert_allclose(expected, y, atol=1e-12)


@pytest.mark.parametrize(("length", "grid"), GRIDS)
def test_spatial_pool_with_a_filter(length: int, grid: tuple[int, int]) -> None:
    model = randomised(ConvPool(ConvPoolConfig(**SIZES, depth=2, use_ln=True, kernel=2)))
    w, x = oracles.weights(model), tokens(2, length, 7)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        kernel, bias = w["pool.weight"], w["pool.bias"]
        pooled = [np.einsum("ocij,ijc->o", kernel, one) + bias for one in squares(row, grid, 2)]
        y = mlp(w, "proj", np.stack(pooled), depth=2, use_ln=True)
        np.testing.assert_allclose(expected, y, atol=1e-12)


@pytest.mark.parametrize("kind", ["identity", "avg", "masked_drop"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_rest(kind: str, depth: int) -> None:
    config = PoolConfig(
        **SIZES, depth=depth, use_ln=True, resampler_type=kind, pool_mode="average", pool_size=4
    )
    model = randomised(Pool(config))
    w, x = oracles.weights(model), tokens(2, 9, 7)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        left = row.mean(0, keepdims=True) if kind == "avg" else row
        y = linear(w, "proj", left) if depth == 0 else mlp(w, "proj", left, depth=depth, use_ln=True)
        np.testing.assert_allclose(expected, y, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resampler_type": "magic"}, "no resampler of this kind is called `magic`"),
        ({"pool_mode": "median"}, "no way to pool is called `median`"),
    ],
)
def test_what_no_pool_is_called_is_refused(changes: dict[str, Any], message: str) -> None:
    said = {"depth": 1, "use_ln": True, "resampler_type": "avg", "pool_mode": "max", "pool_size": 2}
    with pytest.raises(UsageError, match=message):
        Pool(PoolConfig(**{**SIZES, **said, **changes}))


def test_what_no_mlp_pools_by_is_refused() -> None:
    with pytest.raises(UsageError, match="tokens are pooled by avg or max, not by `sum`"):
        Mlp(MlpConfig(**SIZES, depth=1, use_ln=True, pool_tokens=0, pool_type="sum"))
