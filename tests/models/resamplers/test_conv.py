"""The convolutional resampler equals its mathematics written out."""

import numpy as np
import pytest
import torch

from dovetail.models.resamplers.conv import Conv, ConvConfig
from models import oracles
from models.oracles import depthwise, gelu, linear, norm, randomised, tokens


@pytest.mark.parametrize(("length", "edge"), [(9, 3), (7, 3), (10, 4)])
@pytest.mark.parametrize("resize", [True, False])
def test_the_mathematics_written_out(length: int, edge: int, resize: bool) -> None:
    source = 7 if resize else 5
    model = randomised(
        Conv(ConvConfig(in_dim=source, out_dim=5, kernel=7, repeats=2, stages=2, blocks=1, resize=resize))
    )
    w, x = oracles.weights(model), tokens(2, length, source)
    with torch.no_grad():
        found = model(x).numpy()
    assert found.shape == (2, 1, 5)
    for row, expected in zip(x.numpy(), found, strict=True):
        y = linear(w, "input_proj", row) if resize else row
        grid = np.zeros((edge * edge, 5))
        grid[:length] = y
        grid = grid.reshape(edge, edge, 5)
        for repeat in range(2):
            for stage in range(2):
                name = f"repeated_stages.{repeat}.{stage}.0"
                z = norm(w, f"{name}.norm", depthwise(w, f"{name}.dwconv", grid), 1e-6)
                grid = grid + linear(w, f"{name}.pwconv2", gelu(linear(w, f"{name}.pwconv1", z)))
        y = norm(w, "norm", grid.reshape(-1, 5)[:length], 1e-6)
        np.testing.assert_allclose(expected[0], linear(w, "head", y.mean(0)), atol=1e-12)
