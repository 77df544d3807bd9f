"""One step over many sequences, and the loop over steps that generates.

    stages = [Stage(model)]                     or those of a pipeline, in order
    logits = step(stages, [Piece(0, prompt), Piece(7, one_token)])        [2, vocab]

In a step some sequences read a piece of their prompt and others their last token; each may be of another
length and age. Sequences join and leave between steps. A row of logits is what the sequence alone gives.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.models.language import LanguageModel
from dovetail.models.stage import Stage, as_stage
from dovetail.models.stream import Stream, packed


class Piece(NamedTuple):
    """The next tokens of one sequence, a row without padding. Logits are made of the last one if wanted."""

    sequence: int
    stream: Stream
    wants_logits: bool = True


class Draw(NamedTuple):
    """Which token is chosen: a row, and how many tokens of its answer come before."""

    row: int
    position: int


Choose = Callable[[Float[Tensor, "r v"], Sequence[Draw]], Int[Tensor, " r"]]


def greedy(logits: Float[Tensor, "r v"], draws: Sequence[Draw]) -> Int[Tensor, " r"]:
    """The most likely token of each row."""
    return logits.argmax(dim=-1)


@torch.inference_mode()
def step(stages: Sequence[Stage], batch: Sequence[Piece]) -> Float[Tensor, "r v"]:
    """The logits after the last token of each piece that wants them, in the order of the pieces.

    All sequences are open in all stages. A step that fails in a later stage leaves its sequences further
    on in the stages before: close them.
    """
    stream = packed([piece.stream for piece in batch], [piece.sequence for piece in batch])
    for stage in stages:
        stream = stage(stream)
    ends = torch.tensor([piece.stream.x.shape[1] for piece in batch]).cumsum(0) - 1
    wanted = ends[torch.tensor([piece.wants_logits for piece in batch], dtype=torch.bool)]
    return stages[-1].logits(stream.x[:, wanted.to(stream.x.device)])[0]


class _Row:
    """A sequence on its way: what is still to be read of its prompt, then one token after the other."""

    def __init__(self, prompt: Stream, chunk: int | None) -> None:
        self._pieces = list(pieces(prompt, chunk))
        self._end = prompt.end
        self.tokens: list[int] = []

    @property
    def is_reading(self) -> bool:
        """Whether it has not read its prompt."""
        return bool(self._pieces)

    def read(self) -> tuple[Stream, bool]:
        """The next piece of the prompt, and whether it is the last."""
        piece = self._pieces.pop(0)
        return piece, not self._pieces

    def follow(self, x: Float[Tensor, "1 1 d"]) -> Stream:
        """The stream of its last token."""
        return self._end.then(x, len(self.tokens) - 1)


def answers(
    stages: Sequence[Stage],
    prompts: Sequence[Stream],
    *,
    max_new_tokens: int,
    stop: Collection[int] = (),
    choose: Choose = greedy,
    chunk: int | None = None,
) -> Iterator[dict[int, int]]:
    """The tokens that follow each prompt, step by step: `{row: token}` of the rows that go on.

    A row ends with a token of `stop` or after `max_new_tokens`, and its memory is free at once; the
    iteration ends when all have ended, and may be left at any time. `chunk` reads prompts in pieces of
    about so many tokens.

    Raises:
        UsageError: no token is wanted, or a cache has no room for all rows.
    """
    if max_new_tokens < 1:
        raise UsageError(f"{max_new_tokens} new tokens cannot be generated", hint="ask for at least 1")
    rows = {i: _Row(prompt, chunk) for i, prompt in enumerate(prompts)}
    for i, prompt in enumerate(prompts):
        for stage in stages:
            stage.open(i, prompt.x.shape[1] + max_new_tokens)
    try:
        while rows:
            batch = _batch(stages[0], rows)
            draws = [
                Draw(piece.sequence, len(rows[piece.sequence].tokens))
                for piece in batch
                if piece.wants_logits
            ]
            if not draws:
                step(stages, batch)
                continue
            found = choose(step(stages, batch), draws).tolist()
            chosen = {draw.row: token for draw, token in zip(draws, found, strict=True)}
            for i, token in chosen.items():
                rows[i].tokens.append(token)
                if token in stop or len(rows[i].tokens) == max_new_tokens:
                    del rows[i]
                    for stage in stages:
                        stage.close(i)
            yield chosen
    finally:
        for i in rows:
            for stage in stages:
                stage.close(i)


def _batch(first: Stage, rows: Mapping[int, _Row]) -> list[Piece]:
    """The next piece of every row; the last tokens of those that answer are embedded at once."""
    answering = {i: row.tokens[-1] for i, row in rows.items() if not row.is_reading}
    if answering:
        device = first.model.device
        with torch.inference_mode():
            x = first.embed_tokens(torch.tensor(list(answering.values()), device=device))
        embedded = dict(zip(answering, torch.split(x, 1, dim=1), strict=True))
    batch = []
    for i, row in rows.items():
        if row.is_reading:
            stream, is_last = row.read()
            batch.append(Piece(i, stream, wants_logits=is_last))
        else:
            batch.append(Piece(i, row.follow(embedded[i])))
    return batch


def generate(
    model: LanguageModel | Stage | Sequence[Stage],
    inputs: Mapping[str, Any],
    *,
    max_new_tokens: int,
    stop: Collection[int] = (),
    choose: Choose = greedy,
    chunk: int | None = None,
) -> list[list[int]]:
    """The tokens that follow each row of prepared inputs, its stop token included.

    Raises what `answers` raises.
    """
    stages = [as_stage(model)] if isinstance(model, LanguageModel | Stage) else list(model)
    with torch.inference_mode():
        prompts = list(stages[0].embed(**inputs).rows())
    found: list[list[int]] = [[] for _ in prompts]
    for chosen in answers(
        stages, prompts, max_new_tokens=max_new_tokens, stop=stop, choose=choose, chunk=chunk
    ):
        for row, token in chosen.items():
            found[row].append(token)
    return found


def pieces(prompt: Stream, chunk: int | None) -> Iterator[Stream]:
    """One row in pieces of `chunk` tokens or a few more: tokens that see each other stay together."""
    length, start = prompt.x.shape[1], 0
    block = prompt.columns.block[0]
    while chunk is not None and start + chunk < length:
        end = start + chunk
        while end < length and not bool(block[end] > block[end - 1]):
            end += 1
        yield prompt.part(start, end)
        start = end
    if start < length:
        yield prompt.part(start, length)
