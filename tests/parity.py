"""Tiny models of transformers with random weights, saved and loaded, and how close two tensors are."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dovetail.loading.load

ATOL = 1e-5
torch.set_num_threads(1)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough that every layer matters: norms near 1 or 0, matrices that keep a unit size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2 and "norm" in name and name.endswith("weight"):
                base = 0.0 if "Gemma" in type(model).__name__ and "vision" not in name else 1.0
                weight.copy_(base + 0.2 * noise)
            else:
                width = weight[0].numel() if weight.ndim > 1 else 25
                weight.copy_(noise / width**0.5)
    return model.eval()


def loaded(model: Any, folder: Path, **options: Any) -> Any:
    """What `dovetail.load` makes of the checkpoint that transformers writes."""
    model.save_pretrained(folder)
    return dovetail.loading.load.load(folder, **options)


def assert_near(found: Tensor, expected: Tensor, where: Tensor | None = None, atol: float = ATOL) -> None:
    """The same shape, and no element further off than `atol` where a boolean mask is true."""
    assert found.shape == expected.shape
    gap = (found.double() - expected.double()).abs()
    worst = float((gap if where is None else gap[where]).max())
    assert worst <= atol, f"off by {worst:.3g}"
