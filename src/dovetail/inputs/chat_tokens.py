"""What a chat template made, as token ids, with one placeholder for each image.

The processor of a model that takes images puts the tokenizer's special tokens around what a template made,
unless that begins with BOS; a tokenizer alone never does.

Source: transformers@5.23.0 `processing_utils.py:ProcessorMixin.apply_chat_template`.
"""

from dovetail.inputs.language import LanguageInputs
from dovetail.inputs.tokenizer import Tokenizer

PLACE = "\ufffc"  # the object replacement character: an image, in a text that has no word for it


def word_for(token: int | None, tokenizer: Tokenizer) -> str:
    """What stands for an image in a text: the placeholder's own word, else `PLACE`."""
    return (tokenizer.token(token) if token is not None else None) or PLACE


def chat_tokens(
    text: str, tokenizer: Tokenizer, inputs: LanguageInputs, *, num_images: int, has_after: bool = True
) -> list[int]:
    """The ids of a text, in which `PLACE` may stand for images; of more places than images the last ones are
    none. `has_after` is whether special tokens come behind it as well.

    Raises:
        UsageError: it is no text.
        CheckpointError: the tokenizer breaks over it.
    """
    bos = tokenizer.specials.get("bos_token")
    has_specials = inputs.takes_images and not (bos and text.startswith(bos))
    token = inputs.image_token
    is_named = token is not None and tokenizer.token(token) is not None
    if token is None or is_named or PLACE not in text:
        if has_after or not has_specials:
            return tokenizer.encode(text, with_specials=has_specials)
        return [*tokenizer.around()[0], *tokenizer.encode(text)]
    before, after = tokenizer.around() if has_specials else ([], [])
    first, *rest = (tokenizer.encode(piece) for piece in text.split(PLACE))
    places = [[token] if i < num_images else [] for i in range(len(rest))]
    pieces = [id for place, piece in zip(places, rest, strict=True) for id in (*place, *piece)]
    return [*before, *first, *pieces, *(after if has_after else [])]
