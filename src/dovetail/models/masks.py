"""Who may look at whom, as data.

Every token carries a block number. A query sees the keys of its own block and of earlier blocks, if
they are not padding:

    causal       blocks 0 1 2 3 4      prefix, then causal   blocks 0 0 0 1 2
                 x . . . .                                   x x x . .
                 x x . . .                                   x x x . .
                 x x x . .                                   x x x . .
                 x x x x .                                   x x x x .
                 x x x x x                                   x x x x x

The queries are always the last tokens of the keys: with a cache, the last rows of the square. Sequences
that share a row see only themselves. A layer may have a rule of its own (a `Window`, `vlm/alternating.py`),
which takes away from what it sees by blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dovetail.models.attention import Here, Packed, Past, Sight
from dovetail.models.cache import Appended, Cache
from dovetail.models.stream import Columns

Mask = Bool[Tensor, "b 1 q k"]


class Tokens(NamedTuple):
    """What rules are made of: the place of each token among those of its row, padding not counted, and its
    modality."""

    place: Int[Tensor, "b n"]
    modality: Int[Tensor, "b n"]


# Queries and keys -> where a query may look.
Rule = Callable[[Tokens, Tokens], Tensor]


@dataclass(frozen=True, slots=True)
class Window:
    """A rule: a token looks at itself and at those before it, `size` in all (arXiv:2004.05150)."""

    size: int

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Tensor, "b 1 q k"]:
        return (query.place[:, :, None] - key.place[:, None, :] < self.size)[:, None]


def block_mask(
    query: Int[Tensor, "b q"], key: Int[Tensor, "b k"], valid: Bool[Tensor, "b k"]
) -> Bool[Tensor, "b 1 q k"]:
    """True where the key's block is not after the query's, and the key is not padding."""
    allowed = (key[:, None, :] <= query[:, :, None]) & valid[:, None, :]
    return allowed[:, None]


def open_empty_rows(mask: Bool[Tensor, "b 1 q k"]) -> Bool[Tensor, "b 1 q k"]:
    """The same mask, where a query that may look nowhere (padding) looks everywhere.

    A softmax over nothing is NaN, and NaN times a weight of 0 is NaN in every other row.
    """
    return mask | ~mask.any(dim=-1, keepdim=True)


def causal_blocks(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """A block for each token: plain causal order, whatever the padding."""
    return torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)


def positions_of(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The position of each token in its row; padding takes none and repeats the one before it."""
    return (valid.long().cumsum(dim=-1) - 1).clamp(min=0)


def pasts_of(columns: Columns, rules: Sequence[Rule | None], cache: Cache | None) -> list[Past]:
    """What each of some layers attends to; `rules` has one for each, None where blocks say all.

    With a cache the columns are of one row, and every sequence in it is open.
    """
    if columns.sequence is None:
        assert cache is None, "a cache needs to know of which sequence each column is"
        sights = {rule: Here(sight_of(columns, rule)) for rule in dict.fromkeys(rules)}
        return [sights[rule] for rule in rules]
    if cache is None and columns.sequence.shape[0] > 1:
        sights = {rule: Here(_shared_rows(columns, rule)) for rule in dict.fromkeys(rules)}
        return [sights[rule] for rule in rules]
    return _packed(columns, columns.sequence, rules, cache)


def _packed(
    columns: Columns, sequence: Int[Tensor, "1 n"], rules: Sequence[Rule | None], cache: Cache | None
) -> list[Past]:
    """The same for sequences one after the other in one row."""
    numbers, counts = (one.tolist() for one in torch.unique_consecutive(sequence[0], return_counts=True))
    ends = tuple(torch.tensor(counts).cumsum(0).tolist())
    each: list[list[Past]] = [[] for _ in rules]
    for number, count, end in zip(numbers, counts, ends, strict=True):
        part = columns.at((slice(None), slice(end - count, end)))
        if cache is None:
            sights = {rule: sight_of(part, rule) for rule in dict.fromkeys(rules)}
            for i, rule in enumerate(rules):
                each[i].append(Here(sights[rule]))
            continue
        memory = cache[number]
        memory.note(part.block[0], part.modality[0])
        keys = memory.columns(count)
        sights = {rule: sight_after(part, *keys, rule=rule) for rule in dict.fromkeys(rules)}
        for i, rule in enumerate(rules):
            each[i].append(Appended(memory, i, memory.length, sights[rule]))
    return [Packed(ends, tuple(pasts)) for pasts in each]


def advance(columns: Columns, cache: Cache) -> None:
    """Counts columns that have gone through all layers."""
    assert columns.sequence is not None
    numbers, counts = torch.unique_consecutive(columns.sequence[0], return_counts=True)
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        cache[number].advance(count)


def sight_of(columns: Columns, rule: Rule | None = None) -> Sight:
    """What tokens see of each other where nothing came before; a mask only where words do not say it."""
    valid, block, _, _ = columns
    if rule is not None and _bites(rule, block.shape[1]):
        tokens = tokens_of(columns)
        return Sight(open_empty_rows(block_mask(block, block, valid) & rule(tokens, tokens)))
    if block.shape[1] > 1 and _holds(valid.all() & (block.diff(dim=1) > 0).all()):
        return Sight(is_causal=True)
    return sight_among(block, block, valid)


def sight_among(query: Int[Tensor, "b q"], key: Int[Tensor, "b k"], valid: Bool[Tensor, "b k"]) -> Sight:
    """What queries in some blocks see of keys in others, of which some are padding."""
    if _holds(valid.all() & (query.amin(dim=1) >= key.amax(dim=1)).all()):
        return Sight()
    return Sight(open_empty_rows(block_mask(query, key, valid)))


def _holds(condition: Bool[Tensor, ""]) -> bool:
    """Whether a condition holds; on `meta`, where nobody knows, it does not."""
    return not condition.is_meta and bool(condition)


def sight_after(
    columns: Columns, block: Int[Tensor, "1 k"], modality: Int[Tensor, "1 k"], *, rule: Rule | None = None
) -> Sight:
    """What the last tokens of a sequence see of all of it; `block` and `modality` are of all of it."""
    if block.shape[1] == columns.block.shape[1]:
        return sight_of(columns, rule)
    device = columns.block.device
    block, modality = block.to(device), modality.to(device)
    valid = torch.ones_like(block, dtype=torch.bool)
    if rule is None or not _bites(rule, block.shape[1]):
        return sight_among(columns.block, block, valid)
    mask = block_mask(columns.block, block, valid)
    places = torch.arange(block.shape[1], device=device)[None]
    query = Tokens(places[:, -columns.block.shape[1] :], columns.modality)
    return Sight(open_empty_rows(mask & rule(query, Tokens(places, modality))))


def _bites(rule: Rule, tokens: int) -> bool:
    """Whether a rule takes anything away in rows of so many tokens."""
    return not isinstance(rule, Window) or tokens > rule.size


def tokens_of(columns: Columns) -> Tokens:
    """The tokens of columns; padding has places of its own, before all others."""
    valid = columns.valid
    padding = -1 - torch.arange(valid.shape[1], device=valid.device)
    return Tokens(torch.where(valid, valid.long().cumsum(dim=-1), padding), columns.modality)


def _shared_rows(columns: Columns, rule: Rule | None) -> Sight:
    """What tokens see where several rows hold several sequences each."""
    valid, block, _, sequence = columns
    assert sequence is not None
    mask = block_mask(block, block, valid) & (sequence[:, :, None] == sequence[:, None, :])[:, None]
    tokens = tokens_of(columns)
    return Sight(open_empty_rows(mask if rule is None else mask & rule(tokens, tokens)))
