"""What holds for every model that reads tokens, whatever its family."""

from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch

from dovetail.models.cache import Cache
from dovetail.models.stream import packed
from dovetail.run.engine import generate, pieces
from parity import assert_near


def check_running(model: Any, tokens: Any, images: Any = (), *, vocab: int) -> None:
    """Every way of running a model gives the same. Only tokens below `vocab` are generated."""
    inputs = model.prepare(tokens, images)
    check_cached(model, inputs)
    check_padding(model, inputs)
    check_alone(model, tokens, images)
    check_generate(model, tokens, images, vocab=vocab)


@torch.no_grad()
def check_cached(model: Any, inputs: dict[str, Any]) -> None:
    """Token by token and in chunks through the cache equals all at once, block by block; so do the rows one
    after the other in one row, with a cache and without."""
    stream = model.embed(**inputs)
    whole = [hidden[valid] for hidden, valid in zip(model.hidden(stream), inputs["valid"], strict=True)]
    rows = list(stream.rows())
    for chunk in (1, 4):
        cache = Cache()
        for i, (row, expected) in enumerate(zip(rows, whole, strict=True)):
            cache.open(i, len(expected))
            parts = [model.hidden(packed([piece], [i]), cache) for piece in pieces(row, chunk)]
            assert_near(torch.cat(parts, dim=1)[0], expected)
    together = torch.cat(whole)
    assert_near(model.hidden(packed(rows))[0], together)
    cache = Cache()
    for i, expected in enumerate(whole):
        cache.open(i, len(expected))
    assert_near(model.hidden(packed(rows), cache)[0], together)


@torch.no_grad()
def check_padding(model: Any, inputs: dict[str, Any]) -> None:
    """Padding anywhere in the rows, of any token, changes nothing."""
    logits = model(**inputs)
    for seed in range(2):
        moved = scattered(inputs, seed)
        moved["tokens"][~moved["valid"]] = 7 + seed
        found = model(**moved)
        for i, valid in enumerate(inputs["valid"]):
            assert_near(found[i][moved["valid"][i]], logits[i][valid])


def scattered(inputs: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same rows with three more columns of padding and all padding at random places."""
    valid = torch.nn.functional.pad(inputs["valid"], (0, 3))
    generator = np.random.default_rng(seed)
    order = torch.empty(valid.shape, dtype=torch.long)
    for i, row in enumerate(valid):
        width = len(row)
        real = np.flatnonzero(row.numpy())
        places = np.sort(generator.permutation(width)[: len(real)])
        order[i, torch.from_numpy(places)] = torch.from_numpy(real)
        rest = np.setdiff1d(np.arange(width), places)
        order[i, torch.from_numpy(rest)] = torch.from_numpy(np.flatnonzero(~row.numpy()))
    moved = {}
    for name, value in inputs.items():
        is_columns = value.shape[-2:] == inputs["valid"].shape
        moved[name] = value.clone()
        if is_columns:
            padded = torch.nn.functional.pad(value, (0, 3))
            moved[name] = padded.gather(-1, order.expand(padded.shape))
    return moved


@torch.no_grad()
def check_alone(model: Any, tokens: Any, images: Any = ()) -> None:
    """A row in a batch, padded on either side, equals the row by itself."""
    alone = [model(**model.prepare([row], [images[i]] if images else ()))[0] for i, row in enumerate(tokens)]
    for side in ("left", "right"):
        inputs = model.prepare(tokens, images, pad=side)
        logits = model(**inputs)
        for i, row in enumerate(alone):
            assert_near(logits[i][inputs["valid"][i]], row)


@torch.no_grad()
def check_generate(model: Any, tokens: Any, images: Any = (), *, vocab: int, steps: int = 3) -> None:
    """Decoding through the cache gives the tokens that a full run for each token gives."""
    whole = [list(row) for row in tokens]
    for _ in range(steps):
        for i, row in enumerate(whole):
            logits = model(**recomputed(model, tokens[i], row, [images[i]] if images else ()))
            whole[i] = [*row, int(logits[0, -1, :vocab].argmax())]
    choose = partial(below, vocab)
    expected = [row[len(tokens[i]) :] for i, row in enumerate(whole)]
    for side, chunks in (("left", (None, 3)), ("right", (1,))):
        inputs = model.prepare(tokens, images, pad=side)
        for chunk in chunks:
            found = generate(model, inputs, max_new_tokens=steps, chunk=chunk, choose=choose)
            assert found == expected


def below(vocab: int, logits: torch.Tensor, draws: Any) -> torch.Tensor:
    """The most likely of the first tokens."""
    return logits[:, :vocab].argmax(dim=-1)


def recomputed(model: Any, prompt: Any, row: Any, images: Any) -> dict[str, Any]:
    """The inputs of a row that begins with a prompt; what follows it is an answer."""
    suffix = row[len(prompt) :]
    if "suffixes" in signature(model.prepare).parameters:
        return model.prepare([prompt], images, suffixes=[suffix])  # type: ignore[no-any-return]
    return model.prepare([row], images)  # type: ignore[no-any-return]
