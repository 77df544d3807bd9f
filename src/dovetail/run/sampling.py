"""Choosing the next token: the most likely one, or one drawn.

The order is that of transformers: temperature, then top-k, then top-p. Rows of padding in the token
table are never chosen.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.run.engine import Choose, Draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn: `temperature` 0 takes the most likely one; `top_k` 0 and `top_p` 1 keep all."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UsageError(
                f"temperature {self.temperature}, top-k {self.top_k}, top-p {self.top_p} cannot be",
                hint="temperature >= 0, top-k >= 0, 0 < top-p <= 1",
            )
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise UsageError(
                "at temperature 0 the most likely token is taken: top-k and top-p would do nothing",
                hint="give a --temperature above 0, or leave them out",
            )


def chooser(sampling: Sampling, vocab_used: int | None = None) -> Choose:
    """The function that chooses.

    What is drawn depends on the seed, the row and how many tokens it has: not on the rows beside it, nor
    on how often a run was begun again.
    """
    seed = torch.seed() if sampling.seed is None else sampling.seed

    def choose(logits: Float[Tensor, "r v"], draws: Sequence[Draw]) -> Int[Tensor, " r"]:
        scores = logits if vocab_used is None else logits[:, :vocab_used]
        if sampling.temperature == 0:
            return scores.argmax(dim=-1)
        kept = trimmed(scores.float() / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        weights = kept.softmax(dim=-1).cpu()
        drawn = [drawn_from(row, seed, draw) for row, draw in zip(weights, draws, strict=True)]
        return torch.tensor(drawn, device=logits.device)

    return choose


def drawn_from(weights: Float[Tensor, " v"], seed: int, draw: Draw) -> int:
    """One token, drawn with its weight."""
    key = struct.pack("<qqq", seed % 2**63, draw.row, draw.position)
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(blake2b(key, digest_size=8).digest(), "little"))
    return int(torch.multinomial(weights, 1, generator=generator))


def trimmed(scores: Float[Tensor, "b v"], *, top_k: int, top_p: float) -> Float[Tensor, "b v"]:
    """The scores with those at -inf that top-k and top-p leave out; the best one always stays."""
    if 0 < top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1:
        ranked, order = scores.sort(dim=-1)  # ascending, as transformers does it
        out = ranked.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        out[:, -1] = False
        scores = scores.masked_fill(out.scatter(-1, order, out), -torch.inf)
    return scores
