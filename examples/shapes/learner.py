"""A Qwen2-VL at work on batches of shapes: many questions of one picture at once, in bfloat16 on a CPU.

The same numbers as `model.forward` gives for each question alone (a test compares both), from the same
parameters. Only attention is written anew: torch@2.13's fused kernel takes four to seven times as long
backward in bfloat16 as these few products.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from dovetail.models.rotary import Rotation, rotate
from dovetail.models.towers.grids import grid_rotation
from examples.shapes.batches import FEATURES, GRID, IGNORED, IMAGE_AT, MERGE, Batch, patches, random_batch
from examples.shapes.questions import KINDS

_NEVER = -1e4  # added to the score of what a query does not see


class Attend(torch.autograd.Function):
    """Softmax attention; `mask` is added to the scores, and one key head serves several rows of queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scores = q @ k.mT
        if mask is not None:
            scores += mask
        shares = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, shares)
        return shares @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        of_scores = torch._softmax_backward_data(grad @ v.mT, shares, -1, shares.dtype)
        return of_scores @ k, of_scores.mT @ q, shares.mT @ grad, None


class Rows:
    """What the decoder's layers attend to: the columns of each row that `mask` (b 1 n n) adds nothing to."""

    def __init__(self, mask: Tensor, queries_of_key: int) -> None:
        self._mask = mask.repeat(1, 1, queries_of_key, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What each query finds."""
        b, h, n, c = q.shape
        grouped = (q * c**-0.5).reshape(b, k.shape[1], -1, c)
        return Attend.apply(grouped, k, v, self._mask).reshape(b, h, n, c)


class Learner:
    """A model of `dovetail.load` and what it makes of batches."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.dtype: torch.dtype = model.text.table.dtype
        config = model.vision.config
        grid = torch.tensor([[1, GRID, GRID]])
        by = grid_rotation(grid, width=config.d_vision // config.heads, merge=MERGE)
        self._by = Rotation(by.cos.to(self.dtype), by.sin.to(self.dtype))

    def features(self, pictures: np.ndarray) -> Tensor:
        """What the model sees in pictures: (pictures, features, d_model)."""
        vision = self.model.vision
        cut = torch.from_numpy(patches(pictures)).to(self.dtype)
        x = vision.patch_embed(cut).unflatten(0, (len(pictures), -1))
        for block in vision.blocks.values():
            joined = block.attn.qkv(block.norm1(x))
            q, k, v = rearrange(joined, "b n (three h c) -> three b h n c", three=3, h=vision.config.heads)
            q, k = rotate(q, self._by), rotate(k, self._by)
            found = Attend.apply(q * q.shape[-1] ** -0.5, k, v, None)
            x = x + block.attn.o(rearrange(found, "b h n c -> b n (h c)"))
            x = x + block.mlp(block.norm2(x))
        return self.model.merger(x.flatten(0, 1)).unflatten(0, (len(pictures), -1))

    def logits(self, batch: Batch, columns: Tensor) -> Tensor:
        """The logits at some columns, a mask of rows x columns: (columns, vocab)."""
        model, config = self.model, self.model.text.config
        x = model.text.embed(torch.from_numpy(batch.tokens))
        behind = x[:, IMAGE_AT + FEATURES :]
        x = torch.cat([x[:, :IMAGE_AT], self.features(batch.pictures), behind], dim=1)
        sequence = torch.from_numpy(batch.sequence)
        sees = (sequence[:, :, None] == sequence[:, None, :]) | (sequence[:, None, :] == 0)
        mask = torch.zeros(sees.shape, dtype=self.dtype).masked_fill_(~sees.tril(), _NEVER)[:, None]
        positions, frequency = torch.from_numpy(batch.positions), model.text.frequencies(x.device)
        by = model.turn(positions, frequency, model.config.mrope_section, self.dtype)
        pasts = [Rows(mask, config.q_heads // config.kv_heads)] * config.layers
        return model.logits(model.text(x, by, pasts)[columns][None])[0].float()

    def loss(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of the tokens of all answers."""
        targets = torch.from_numpy(batch.targets)
        columns = targets != IGNORED
        return F.cross_entropy(self.logits(batch, columns), targets[columns])

    @torch.no_grad()
    def rights(self, batch: Batch) -> list[tuple[str, bool]]:
        """For each question its kind, and whether the likeliest tokens are its whole answer."""
        columns = batch.targets != IGNORED
        best = self.logits(batch, torch.from_numpy(columns)).argmax(dim=-1).numpy()
        wrong = best != batch.targets[columns]
        missed = set(
            zip(np.nonzero(columns)[0][wrong].tolist(), batch.answers[columns][wrong].tolist(), strict=True)
        )
        return [
            (question.kind, (row, number) not in missed)
            for row, of in enumerate(batch.questions)
            for number, question in enumerate(of)
        ]


def accuracy(
    learner: Learner,
    random: np.random.Generator,
    each: int,
    *,
    pairs: str = "named",
    is_held_out: bool = False,
) -> dict[str, float]:
    """The share of right answers to so many questions of each kind on new pictures, and their average."""
    found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    while min(map(len, found.values())) < each:
        for kind, is_right in learner.rights(
            random_batch(random, 64, pairs=[pairs], is_held_out=is_held_out)
        ):
            found[kind].append(is_right)
    shares = {kind: sum(of[:each]) / each for kind, of in found.items()}
    return {**shares, "average": sum(shares.values()) / len(shares)}
