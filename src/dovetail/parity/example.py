"""Inputs for a model that nobody chose: true shapes, random values, the same for the same seed."""

from typing import Any

import numpy as np
import torch
from torch import nn

from dovetail.errors import UsageError
from dovetail.models.language import LanguageModel
from dovetail.models.policies.policy import Policy

# Pixels of the edges of the image: neither square nor a multiple of a patch, so that both are tried.
HEIGHT, WIDTH = 210, 294
_TOKENS = 12


def example_inputs(model: nn.Module, *, seed: int = 0, tokens: int = _TOKENS) -> dict[str, Any]:
    """Inputs for one call: a few tokens with an image among them, or cameras, text, state and noise.

    Raises:
        UsageError: the model is neither a language model nor a policy nor a tower.
    """
    random = np.random.default_rng(seed)
    if isinstance(model, LanguageModel):
        return _language(model, random, tokens)
    if isinstance(model, Policy):
        return _policy(model, random, tokens)
    prepare = getattr(model, "prepare", None)
    if prepare is None:
        raise UsageError(
            f"dovetail has no example for a {type(model).__name__}", hint="give inputs of your own"
        )
    inputs: dict[str, Any] = prepare([_image(random)])
    return inputs


def _language(model: LanguageModel, random: np.random.Generator, tokens: int) -> dict[str, Any]:
    vocab, image = model.inputs.vocab, model.inputs.image_token
    row = [int(token) for token in random.integers(1, vocab, tokens) if token != image]
    if not model.inputs.takes_images:
        return model.prepare([row])
    if image is not None:
        row.insert(min(1, len(row)), image)
    return model.prepare([row], [[_image(random)]])


def _policy(model: Policy, random: np.random.Generator, tokens: int) -> dict[str, Any]:
    """Three cameras, the last of which is missing, and a text that is followed by padding."""
    cameras = [[_image(random)] for _ in range(3)]
    seen = torch.tensor([[True], [True], [False]])
    row = torch.from_numpy(random.integers(1, model.vlm.config.vocab, (1, tokens)))
    is_text = torch.arange(tokens)[None] < tokens - 2
    state = (
        torch.from_numpy(random.standard_normal((1, model.d_state)).astype(np.float32))
        if model.d_state
        else None
    )
    inputs = model.prepare(cameras, seen, row, is_text, state)
    noise = torch.from_numpy(random.standard_normal((1, *model.action_shape)).astype(np.float32))
    return {**inputs, "x_t": noise, "t": torch.full((1,), 0.7)}


def _image(random: np.random.Generator) -> np.ndarray:
    """Noise over a slope, so that no two patches are alike and the means are not all one grey."""
    slope = np.linspace(0, 160, HEIGHT)[:, None, None] * np.linspace(0.2, 1, WIDTH)[None, :, None]
    noise = random.integers(0, 90, (HEIGHT, WIDTH, 3))
    return (slope + noise).astype(np.uint8)
