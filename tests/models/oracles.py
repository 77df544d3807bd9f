"""The mathematics of layers written out with numpy and loops, in float64, to compare models with."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray
ERF = np.vectorize(math.erf)


def weights(module: nn.Module) -> dict[str, Array]:
    """Every parameter by name, in float64."""
    return {name: weight.detach().double().numpy() for name, weight in module.state_dict().items()}


def randomised(module: nn.Module, seed: int = 0, dtype: Any = torch.float64) -> Any:
    """The module with random weights: matrices keep a unit size, norms are near 1."""
    generator = torch.Generator().manual_seed(seed)
    module = module.to(dtype)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if weight.ndim < 2:
                weight.copy_(0.3 * noise + (1.0 if "norm" in name.lower() and "weight" in name else 0.0))
            else:
                weight.copy_(noise / weight[0].numel() ** 0.5)
    return module.eval()


def tokens(*shape: int, seed: int = 1, dtype: Any = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + ERF(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def linear(w: dict[str, Array], name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def norm(w: dict[str, Array], name: str, x: Array, eps: float) -> Array:
    middle, spread = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - middle) / np.sqrt(spread + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def depthwise(w: dict[str, Array], name: str, x: Array) -> Array:
    """A filter for each channel of (rows, columns, channels), zeros around."""
    kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    size = kernel.shape[-1]
    out = np.zeros_like(x)
    rows, columns = x.shape[:2]
    for i in range(rows):
        for j in range(columns):
            for k in range(size):
                for m in range(size):
                    row, column = i + k - size // 2, j + m - size // 2
                    if 0 <= row < rows and 0 <= column < columns:
                        out[i, j] += kernel[:, 0, k, m] * x[row, column]
            out[i, j] += bias
    return out


def bins(size: int, count: int) -> list[slice]:
    """What an adaptive pool of `size` positions into `count` joins."""
    return [slice(math.floor(i * size / count), math.ceil((i + 1) * size / count)) for i in range(count)]
