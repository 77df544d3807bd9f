"""More rows for the tables of tokens: zeros that no token ever has.

A row of zeros gives a logit of 0, which may well win: whoever samples must leave the new rows out. So
the number of real tokens goes into the certificate (`text.vocab_used`) and LitGPT's `vocab_size`.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from dovetail.declare.part import Part
from dovetail.dtypes import BITS
from dovetail.errors import UsageError
from dovetail.report import Value
from dovetail.weights.leaf import Leaf, zeros


class Vocab(NamedTuple):
    """The rows that the tables of a decoder have, and how many of them are tokens."""

    role: str
    used: int
    rows: int

    @property
    def config(self) -> dict[str, Value]:
        """What the certificate says about it."""
        why = f"{self.rows - self.used} rows of padding"
        return {
            f"{self.role}.vocab": Value(self.rows, "weights", why),
            f"{self.role}.vocab_used": Value(self.used, "weights", why),
        }


def padded_vocab(parts: Mapping[str, Part], leaves: Mapping[str, Leaf], multiple: int) -> Vocab:
    """The token rows of a model, filled up to a multiple.

    Raises:
        UsageError: it has no table of tokens.
    """
    for role, part in parts.items():
        if "embed.weight" in part.leaves and "vocab" in part.dims and f"{role}.embed.weight" in leaves:
            used = leaves[f"{role}.embed.weight"].shape[0]
            return Vocab(role, used, -(-used // multiple) * multiple)
    raise UsageError("--pad-vocab: this checkpoint has no table of tokens", hint="leave --pad-vocab out")


def padded(leaves: list[Leaf], vocab: Vocab) -> list[Leaf]:
    """The same with more rows in every table of these tokens."""
    return [_padded(one, vocab) if _is_table(one) and one.shape[0] == vocab.used else one for one in leaves]


def _is_table(leaf: Leaf) -> bool:
    return len(leaf.shape) > 0 and str(leaf.spec.shape[0]) == "vocab"


def _padded(leaf: Leaf, vocab: Vocab) -> Leaf:
    if vocab.rows == vocab.used:
        return leaf
    return leaf._replace(
        shape=(vocab.rows, *leaf.shape[1:]),
        make=partial(_blocks, leaf, vocab.rows - vocab.used),
        source_dtype=leaf.dtype,
        init="padded",
        store=None,
        spans=(),
    )


def _blocks(leaf: Leaf, rows: int) -> Iterator[bytes | memoryview]:
    yield from leaf.plain()
    missing = rows * leaf.elements // leaf.shape[0] * BITS[leaf.dtype] // 8
    yield from zeros(missing)


def with_vocab(config: Mapping[str, Value], vocab: Vocab | None) -> dict[str, Value]:
    """The values with those of a padded table, wherever the size of that table stands."""
    if vocab is None:
        return dict(config)
    same = {
        name: Value(vocab.rows, value.source, value.evidence)
        for name, value in config.items()
        if name.endswith(".vocab") and value.value == vocab.used
    }
    return {**config, **same, **vocab.config}
