"""What generating, training, serving and checking need of a model that reads tokens: one interface.

    inputs = model.prepare(tokens, images)                   token ids and decoded images -> tensors
    logits = model(**inputs)                                 [batch, tokens, vocab]
    loss = model.loss(inputs, targets)                       a number
    loss = model.loss(inputs, targets, is_packed=True)       the same number, without computing padding

A family says how a batch becomes a stream of embeddings (`embed`), and where it differs, how positions
turn (`rotation`) and what a layer may look at (`rules`); everything else is written here, once. Whoever
goes on from a batch, token by token, uses `dovetail.run.engine`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.arguments import refuse_foreign_inputs
from dovetail.inputs.language import LanguageInputs
from dovetail.models.arrays import tensors
from dovetail.models.cache import Cache
from dovetail.models.decoder import Decoder
from dovetail.models.layers import Linear
from dovetail.models.masks import Rule, Window, advance, pasts_of
from dovetail.models.products import Product
from dovetail.models.rotary import Rotation
from dovetail.models.stream import Stream, packed
from dovetail.models.trainable import Count, Trainable, averaged, cross_entropy, one_for_each, predicted

Inputs = dict[str, Any]


class Head(nn.Module):
    """The head as a module, for whoever looks on; its matrix may be the token table."""

    def __init__(self, weight: Float[Tensor, "v d"]) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        return F.linear(hidden, self.weight)


class NoHead(nn.Module):
    """In the place of the head of a bare model, which gives no logits."""

    @property
    def weight(self) -> Tensor:
        """Never there.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this is a bare model, saved without its head: it gives hidden states and no logits",
            hint="use the checkpoint of the model with its head (`...ForCausalLM`)",
        )


class LanguageModel(Trainable):
    """A model that reads tokens, and perhaps images, and says what comes next."""

    spine: ClassVar[str] = "text"  # the role of the decoder
    inputs: LanguageInputs
    head: Linear | NoHead | None
    product: Product | None = None  # that of the head, where it is not torch's own (`kernels.py`)

    @property
    def device(self) -> torch.device:
        """Where it computes: weights that were laid out anew are on `meta`."""
        known = (one.device for one in self.parameters() if not one.is_meta)
        return next(known, torch.device("meta"))

    @property
    def decoder(self) -> Decoder:
        """The decoder, whatever role it has in the family."""
        decoder: Decoder = getattr(self, self.spine)
        return decoder

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        """The matrix that makes logits: a head of its own, or the token table."""
        return self.decoder.table if self.head is None else self.head.weight

    def prepare(
        self,
        tokens: Iterable[Any] = (),
        images: Iterable[Any] = (),
        *,
        pad: str = "left",
        **more: Any,
    ) -> Inputs:
        """The inputs for a batch: rows of token ids, and for each row its images (uint8, h w 3).

        Those of `self.inputs`, which needs no weights, as tensors on the model's device.

        Raises:
            UsageError: what `LanguageInputs` refuses.
        """
        arrays = self.inputs(tokens, images, pad=pad, **more)
        return tensors(arrays, self.device)

    @abstractmethod
    def embed(self, *args: Any, **inputs: Any) -> Stream:
        """The stream of embeddings that the decoder reads."""

    @property
    def rules(self) -> Sequence[Rule | None]:
        """What each layer may not look at beside what its blocks forbid, by the numbers of the layers."""
        config = self.decoder.config
        each = config.windows or [0] * config.layers
        rules: list[Rule | None] = [Window(size) if size else None for size in each]
        return rules

    def rotation(self, stream: Stream) -> Rotation:
        """The rotation of every token by its position."""
        return self.decoder.rotation(stream.positions, stream.x.dtype)

    def hidden(self, stream: Stream, cache: Cache | None = None) -> Float[Tensor, "b n d"]:
        """What the layers that are here make of a stream, after the last norm if it is here.

        With a cache, the stream is one row with the next tokens of some sequences, all of them open; the
        columns count once all layers are through.
        """
        rules = self.rules
        here = [rules[int(name)] for name in self.decoder.blocks]
        pasts = pasts_of(stream.columns, here, cache)
        x = self.decoder(stream.x, self.rotation(stream), pasts, stream.added)
        if cache is not None:
            advance(stream.columns, cache)
        return x

    def logits(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        """The score of every token of the vocabulary."""
        return F.linear(hidden, self.head_weight) if self.product is None else self.product(hidden)

    def forward(self, *, columns: Int[Tensor, "b m"] | None = None, **inputs: Any) -> Float[Tensor, "b _ v"]:
        """The logits of every column, or only of some: `columns` of each row, -1 being the last."""
        refuse_foreign_inputs(inputs)
        hidden = self.hidden(self.embed(**inputs))
        return self.logits(hidden if columns is None else taken(hidden, columns))

    def loss(
        self,
        inputs: Inputs,
        targets: Int[Tensor, "rows columns"],
        *,
        num_items_in_batch: Count | None = None,
        is_packed: bool = False,
    ) -> Float[Tensor, ""]:
        """The cross-entropy of each target given the columns before it; `targets` has one for each token of
        the inputs, -100 where it does not count. Logits are made only of the columns that predict one.

        With `is_packed` the rows go through the decoder one after the other in one row, without padding. Each
        sees itself only, at its own positions: the loss is the same, and padding costs nothing.

        Raises:
            UsageError: there is not one target for each token, or one is outside the vocabulary.
        """
        stream = self.embed(**inputs)
        targets = one_for_each(targets.to(stream.x.device), stream.columns)
        if is_packed:
            targets = targets[stream.columns.valid][None]
            stream = packed(list(stream.rows()))
        counts, wanted = predicted(targets, stream.columns)
        scores = self.logits(self.hidden(stream)[counts][None])[0]
        return averaged(cross_entropy(scores, wanted), num_items_in_batch)


def taken(hidden: Float[Tensor, "b n d"], columns: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """The states of some columns of each row.

    Raises:
        UsageError: a row has no such column.
    """
    length = hidden.shape[1]
    if bool(((columns < -length) | (columns >= length)).any()):
        raise UsageError(
            f"columns are from {-length} to {length - 1}",
            found=str(columns.tolist()),
            hint="give columns within the row",
        )
    where = (columns % length)[..., None].expand(-1, -1, hidden.shape[2])
    return hidden.gather(1, where)
