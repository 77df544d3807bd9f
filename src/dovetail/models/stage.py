"""Some layers of a model that reads tokens, run by themselves: one stage of a pipeline, or all of it.

    first stage     tokens and images -> a stream      `embed`
    every stage     a stream -> the same stream        layers, rotation, masks and cache are its own
    last stage      hidden states -> logits            `logits`

What goes from stage to stage are plain tensors, the fields of a `Stream`: hidden states [1, n, d],
positions [1, n] or [3, 1, n], the columns that masks are made of, and for each token the number of its
sequence. Every stage opens a sequence before its first tokens come, and closes it when it is done.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.models.cache import Cache
from dovetail.models.language import LanguageModel
from dovetail.models.stream import Stream


class Stage(nn.Module):
    """The layers of a model that are here, with a cache of their own of at most `max_tokens`."""

    def __init__(self, model: LanguageModel, *, max_tokens: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.cache = Cache(max_tokens)

    @property
    def layers(self) -> range:
        """The layers that are here, by their numbers in the whole decoder."""
        return self.model.decoder.layers

    @property
    def is_first(self) -> bool:
        """Whether it takes tokens."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether it gives logits."""
        return self.layers.stop == self.model.decoder.config.layers

    def open(self, sequence: int, capacity: int) -> None:
        """Makes room for a sequence of at most so many tokens. Raises what `Cache.open` raises."""
        self.cache.open(sequence, capacity)

    def close(self, sequence: int) -> None:
        """Frees what a sequence has here. Raises what `Cache.close` raises."""
        self.cache.close(sequence)

    def embed(self, **inputs: Any) -> Stream:
        """The stream of a batch of prompts: what the model's `embed` gives.

        Raises:
            UsageError: this is not the first stage.
        """
        self._check(self.is_first, "takes no tokens", "give them to the first stage")
        return self.model.embed(**inputs)

    def embed_tokens(self, tokens: Int[Tensor, " r"]) -> Float[Tensor, "1 r d"]:
        """The embeddings of text tokens, one of each of some sequences.

        Raises:
            UsageError: this is not the first stage.
        """
        self._check(self.is_first, "takes no tokens", "give them to the first stage")
        x: Tensor = self.model.decoder.embed(tokens[None])
        return x

    def forward(self, stream: Stream) -> Stream:
        """The next tokens of some open sequences, one row without padding, after the layers that are here."""
        x = self.model.hidden(stream, self.cache)
        is_spent = stream.added is None or self.layers.stop >= len(stream.added)
        return stream._replace(x=x, added=None if is_spent else stream.added)

    def logits(self, hidden: Float[Tensor, "1 r d"]) -> Float[Tensor, "1 r v"]:
        """The score of every token of the vocabulary.

        Raises:
            UsageError: this is not the last stage.
        """
        self._check(self.is_last, "gives no logits", "ask the last stage")
        return self.model.logits(hidden)

    def _check(self, holds: bool, what: str, hint: str) -> None:
        if not holds:
            raise UsageError(
                f"the stage of layers {self.layers.start} to {self.layers.stop - 1} {what}", hint=hint
            )

    def extra_repr(self) -> str:
        """Which layers are here."""
        return f"layers={self.layers.start}..{self.layers.stop - 1}"


def as_stage(model: LanguageModel | Stage, *, max_tokens: int | None = None) -> Stage:
    """A whole model as the only stage; a stage as it is."""
    return model if isinstance(model, Stage) else Stage(model, max_tokens=max_tokens)
