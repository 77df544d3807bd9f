"""What a layer's queries look at: other tokens of the same step, and what was kept of steps before.

    b  batch    h  query heads    g  key and value heads    c  head width    q  queries    k  keys

A layer hands its queries, keys and values to the `Past` that it was given and gets back what each query
found. The layer knows nothing of masks or caches; a Past is one of

    Here       nothing came before: all keys are those of this step
    After      keys and values came before, and are only read (the prefix of a policy)
    Appended   keys and values came before, and those of this step join them (the cache of a sequence)
    Packed     several sequences stand one after the other in a row, each with a Past of its own

A `Sight` says which of its keys a query may look at. No mask is built where words do: everything, or all
keys up to the query's own.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

# torch@2.13's CPU kernel gives 0 for NaN among fewer keys than a vector register holds, unless it has a mask.
_FEW_KEYS = 16

Queries = Float[Tensor, "b h q c"]
Keys = Float[Tensor, "b g k c"]


class Sight(NamedTuple):
    """The keys that each query may look at: those where `mask` is true; without one all, or with
    `is_causal` those up to its own (as many queries as keys)."""

    mask: Bool[Tensor, "#b 1 q k"] | None = None
    is_causal: bool = False


@runtime_checkable
class Past(Protocol):
    """What one layer attends to."""

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """What the queries of this step find, given its keys and values."""


def attend(
    q: Queries, k: Keys, v: Keys, mask: Bool[Tensor, "#b 1 q k"] | None = None, *, is_causal: bool = False
) -> Queries:
    """Scaled dot-product attention; each key head serves `h / g` query heads. `mask` is true where a query
    may look, with `is_causal` it looks at the keys up to its own.

    A single query is in float32, the query heads that share a key head being rows of one: torch@2.13's CPU
    kernel takes 3 to 5 times as long in 16 bits.
    """
    if mask is None and q.device.type == "cpu" and k.shape[2] < _FEW_KEYS:
        mask, is_causal = written_out(Sight(None, is_causal), q.shape[2], k.shape[2], q.device), False
    if q.shape[2] == 1 and q.device.type == "cpu":
        return _attend_once(q, k, v, mask)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def written_out(sight: Sight, queries: int, keys: int, device: torch.device) -> Bool[Tensor, "#b 1 q k"]:
    """Where queries, the last of the keys, may look, as a mask."""
    if sight.mask is not None:
        return sight.mask
    mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
    return mask.tril(keys - queries) if sight.is_causal else mask


def _attend_once(
    q: Float[Tensor, "b h 1 c"], k: Keys, v: Keys, mask: Bool[Tensor, "#b 1 1 k"] | None
) -> Float[Tensor, "b h 1 c"]:
    """The same for one query; keys and values may be wider than it."""
    b, h, _, c = q.shape
    rows = q.reshape(b, k.shape[1], -1, c)  # b g r c
    kind = torch.promote_types(k.dtype, torch.float32)
    found = F.scaled_dot_product_attention(rows.to(kind), k.to(kind), v.to(kind), attn_mask=mask)
    return found.reshape(b, h, 1, c).to(q.dtype)


def seen(q: Queries, k: Keys, v: Keys, sight: Sight) -> Queries:
    """What queries find where they may look."""
    return attend(q, k, v, sight.mask, is_causal=sight.is_causal)


class Here(NamedTuple):
    """Nothing came before."""

    sight: Sight

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """What each query finds among the keys of this step."""
        return seen(q, k, v, self.sight)


class After(NamedTuple):
    """Keys, turned to their positions, and values that came before and stay as they are."""

    k: Float[Tensor, "b g p c"]
    v: Float[Tensor, "b g p c"]
    sight: Sight

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """What each query finds among the keys before and those of this step."""
        keys, values = torch.cat([self.k.to(k.dtype), k], dim=2), torch.cat([self.v.to(v.dtype), v], dim=2)
        return seen(q, keys, values, self.sight)


class Packed(NamedTuple):
    """Sequences one after the other in one row: the columns where each ends, and what each attends to."""

    ends: tuple[int, ...]
    pasts: Sequence[Past]

    def attend(
        self, q: Float[Tensor, "1 h q c"], k: Float[Tensor, "1 g q c"], v: Float[Tensor, "1 g q c"]
    ) -> Float[Tensor, "1 h q c"]:
        """What each query finds in its own sequence."""
        dtype = q.dtype
        if q.shape[2] == len(self.ends) and q.device.type == "cpu":
            q = q.to(torch.promote_types(dtype, torch.float32))  # single queries, all at once
        counts = [end - start for start, end in zip((0, *self.ends), self.ends, strict=False)]
        pieces = zip(*(torch.split(one, counts, dim=2) for one in (q, k, v)), self.pasts, strict=True)
        found = [past.attend(*heads) for *heads, past in pieces]
        return (found[0] if len(found) == 1 else torch.cat(found, dim=2)).to(dtype)
