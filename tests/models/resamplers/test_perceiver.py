"""The perceiver equals its mathematics written out."""

import numpy as np
import pytest
import torch

from dovetail.models.resamplers.perceiver import Perceiver, PerceiverConfig
from models import oracles
from models.oracles import gelu, linear, norm, randomised, softmax, tokens


def attention(
    w: dict[str, np.ndarray], name: str, x: np.ndarray, latents: np.ndarray, heads: int
) -> np.ndarray:
    latents = norm(w, f"{name}.norm_latents", latents, 1e-5)
    seen = np.concatenate([norm(w, f"{name}.norm_media", x, 1e-5), latents])
    q, both = linear(w, f"{name}.to_q", latents), linear(w, f"{name}.to_kv", seen)
    width = q.shape[1] // heads
    out = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        k, v = both[:, part], both[:, q.shape[1] :][:, part]
        out[:, part] = softmax(q[:, part] @ k.T / np.sqrt(width)) @ v
    return linear(w, f"{name}.to_out", out)


@pytest.mark.parametrize(("ff", "out"), [(True, 9), (True, 14), (False, 9)])
def test_the_mathematics_written_out(ff: bool, out: int) -> None:
    config = PerceiverConfig(
        in_dim=14, out_dim=out, latents=5, layers=2, heads=3, head_dim=4, d_ff=31, ff=ff, proj=out != 14
    )
    model = randomised(Perceiver(config))
    w, x = oracles.weights(model), tokens(2, 7, 14)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        latents = w["perceiver.latents"]
        for i in range(2):
            name = f"perceiver.layers.{i}"
            latents = latents + attention(w, f"{name}.0", row, latents, 3)
            more = latents
            if ff:
                more = linear(w, f"{name}.1.1", norm(w, f"{name}.1.0", latents, 1e-5))
                more = linear(w, f"{name}.1.3", gelu(more))
            latents = latents + more
        latents = norm(w, "perceiver.norm", latents, 1e-5)
        latents = latents if out == 14 else linear(w, "proj", latents)
        np.testing.assert_allclose(expected, latents, atol=1e-12)
