"""The scan equals its recurrence written out number by number."""

import math

import numpy as np
import pytest
import torch

from dovetail.models.resamplers.selective_scan import selective_scan
from models.oracles import tokens

SIZES = [(1, 1, 1, 1), (2, 7, 3, 2), (1, 19, 5, 4)]


def inputs(b: int, n: int, i: int, s: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "u": tokens(b, n, i, seed=1, dtype=dtype),
        "delta": torch.nn.functional.softplus(tokens(b, n, i, seed=2, dtype=dtype)),
        "A": -torch.exp(tokens(i, s, seed=3, dtype=dtype)),
        "B": tokens(b, n, s, seed=4, dtype=dtype),
        "C": tokens(b, n, s, seed=5, dtype=dtype),
        "D": tokens(i, seed=6, dtype=dtype),
    }


def recurrence(given: dict[str, torch.Tensor]) -> np.ndarray:
    """One number after another."""
    u, delta, A, B, C, D = (one.double().tolist() for one in given.values())
    out = np.zeros(given["u"].shape)
    batch, length, channels, states = *out.shape, given["A"].shape[1]
    for b in range(batch):
        for i in range(channels):
            state = [0.0] * states
            for t in range(length):
                total = D[i] * u[b][t][i]
                for s in range(states):
                    decay = math.exp(delta[b][t][i] * A[i][s])
                    state[s] = decay * state[s] + delta[b][t][i] * B[b][t][s] * u[b][t][i]
                    total += C[b][t][s] * state[s]
                out[b, t, i] = total
    return out


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float64_equals_the_recurrence(sizes: tuple[int, ...]) -> None:
    given = inputs(*sizes, torch.float64)
    np.testing.assert_allclose(selective_scan(**given), recurrence(given), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)], ids=str)
def test_narrow_types_are_computed_in_float32(dtype: torch.dtype, atol: float) -> None:
    given = inputs(2, 40, 3, 4, dtype)
    found = selective_scan(**given)
    assert found.dtype == dtype
    expected = recurrence(given)
    assert np.abs(found.double().numpy() - expected).max() <= atol * max(1, np.abs(expected).max())


def test_a_long_sequence_does_not_overflow() -> None:
    """Forms that divide by products of decays do: exp(-delta A) of 2,000 tokens is beyond any float."""
    given = inputs(1, 2000, 3, 4, torch.float32)
    assert bool(torch.isfinite(selective_scan(**given)).all())


def test_gradients_flow_to_everything() -> None:
    given = {name: one.requires_grad_() for name, one in inputs(2, 5, 3, 2, torch.float64).items()}
    torch.autograd.gradcheck(
        lambda *all_: selective_scan(**dict(zip(given, all_, strict=True))), tuple(given.values())
    )
