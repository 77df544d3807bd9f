"""Attention: what is said in words equals the mask written out, and no NaN is lost."""

import pytest
import torch

from dovetail.models.attention import Sight, attend, seen, written_out
from parity import assert_near


def heads(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("keys", [1, 5, 15, 16, 40])
@pytest.mark.parametrize("is_causal", [False, True])
def test_words_and_masks_say_the_same(keys: int, is_causal: bool) -> None:
    q, k, v = heads(2, 6, keys, 8), heads(2, 3, keys, 8, seed=1), heads(2, 3, keys, 8, seed=2)
    sight = Sight(is_causal=is_causal)
    mask = written_out(sight, keys, keys, q.device)
    expected = torch.einsum("bhqc,bhkc->bhqk", q, k.repeat_interleave(2, dim=1)) / 8**0.5
    weights = expected.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    found = torch.einsum("bhqk,bhkc->bhqc", weights, v.repeat_interleave(2, dim=1))
    assert_near(seen(q, k, v, sight), found)
    assert_near(attend(q, k, v, mask), found)
    assert_near(seen(q[:, :, -1:], k, v, Sight()), found[:, :, -1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("keys", [3, 15, 16, 33])
@pytest.mark.parametrize("is_causal", [False, True])
def test_a_query_that_is_nan_finds_nan(dtype: torch.dtype, queries: int, keys: int, is_causal: bool) -> None:
    if is_causal:
        queries = keys
    q, k, v = (heads(1, 2, n, 8, seed=n, dtype=dtype) for n in (queries, keys, keys))
    q[0, 0, :, 0] = torch.nan
    assert bool(seen(q, k, v, Sight(is_causal=is_causal))[0, 0].isnan().all())
