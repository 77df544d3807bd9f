"""The recorded tiny models in tests/golden, with the images and pixels in tests/golden/images."""

from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


def recorded(name: str, *, images: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a case by name; `images` names the file that holds its images."""
    found = dict(np.load(GOLDEN / name / "io.npz"))
    return found | (dict(np.load(GOLDEN / "images" / f"{images}.npz")) if images else {})


def rows_of(tokens: np.ndarray, mask: np.ndarray) -> list[list[int]]:
    """The rows of a padded batch."""
    return [row[keep.astype(bool)].tolist() for row, keep in zip(tokens, mask, strict=True)]


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)
