"""The text models by themselves: a decoder in the dialect that its declaration names, and its head.

Sources: those of `decoder.py`.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dovetail.declare.reference import referenced
from dovetail.inputs.text import TextInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.decoder import Decoder, DecoderConfig, Dialect
from dovetail.models.language import LanguageModel, NoHead
from dovetail.models.layer_kinds import unrotated, windows
from dovetail.models.layers import Linear
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream


def build_decoder(values: Values, role: str) -> Decoder:
    """The decoder that fills a role.

    Raises:
        UsageError: the role is not there, or a value that it needs is not known.
    """
    values.kind(role)  # which refuses a role that is not there
    dialect: Dialect = referenced(values.kinds[role].module)
    kinds = {"windows": windows(values, role), "unrotated": unrotated(values, role)}
    return Decoder(fill(DecoderConfig, values, role, **kinds), dialect)


def build_head(values: Values, role: str, decoder: Decoder) -> Linear | NoHead | None:
    """The head of a decoder, or nothing where it is the token table."""
    config = decoder.config
    if role in values.lost:
        return NoHead()
    return Linear(config.d_model, config.vocab, bias=False) if values.has(role) else None


class TextModel(LanguageModel):
    """A decoder and its head; without one, logits are made with the token table."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = TextInputs(values)
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    def embed(self, tokens: Int[Tensor, "b n"], valid: Bool[Tensor, "b n"] | None = None) -> Stream:
        """The token embeddings, at positions that skip the padding."""
        valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        columns = Columns(valid, causal_blocks(valid), torch.zeros_like(tokens))
        return Stream(self.text.embed(tokens), positions_of(valid), columns)
