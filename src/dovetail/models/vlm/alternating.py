"""Attention that keeps to a modality, or to the other one, in some layers.

Every token is text (0) or image (1). A layer of a kind looks where `causal` does, and of that

    alternating         only at tokens of the same modality
    alternating_cross   only at tokens of the other modality, and at itself

    modality   0 0 1 1 1 0 0       causal      alternating    alternating_cross
               query 1, text       x x         x x            . x
               query 4, image      x x x x x   . . x x x      x x . . x
               query 6, text       x x x x x x x    x x . . . x x    . . x x x . x

Which layer is of which kind is a list, `layer_masks`; the models that were trained have odd layers of
their kind, but for the last, and causal ones between.

Sources: mavleo96/LLaVA-Alternating-Attn@ffa93fe `llava/model/language_model/mask_utils.py`. It hands out
the first rows of the square mask instead of the last: in decoding every token then looks where the first
one does. Here the queries are the last tokens of the keys.
"""

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.models.masks import Rule, Tokens

CAUSAL = "causal"


def within(query: Tokens, key: Tokens) -> Bool[Tensor, "b 1 q k"]:
    """True where query and key are of one modality."""
    return (query.modality[:, :, None] == key.modality[:, None, :])[:, None]


def across(query: Tokens, key: Tokens) -> Bool[Tensor, "b 1 q k"]:
    """True where query and key are of two modalities, or one and the same token."""
    itself = query.place[:, :, None] == key.place[:, None, :]
    return ~within(query, key) | itself[:, None]


RULES: dict[str, Rule] = {"alternating": within, "alternating_cross": across}


def schedule(given: Any, variant: str, layers: int) -> tuple[str, ...]:
    """The kind of each layer: as given, else that of a variant as it was trained.

    >>> schedule("by variant", "alternating", 5)
    ('causal', 'alternating', 'causal', 'alternating', 'causal')

    Raises:
        UsageError: the list has not a known kind for each layer.
    """
    if not isinstance(given, list | tuple):
        return tuple(
            variant if variant in RULES and i % 2 and i < layers - 1 else CAUSAL for i in range(layers)
        )
    known = (CAUSAL, *RULES)
    if len(given) != layers or not set(given) <= set(known):
        raise UsageError(
            f"layer_masks does not say what {layers} layers are",
            expected=f"{layers} of {', '.join(known)}",
            found=", ".join(map(str, given)),
            hint="give one word for each layer",
        )
    return tuple(given)
