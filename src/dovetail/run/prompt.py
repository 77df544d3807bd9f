"""A prompt and its images as the token ids that a family wants, with one placeholder for each image.

A chat template decides where there is one. Without it: PaliGemma wants its images, `<bos>`, the text and
a line break; Prismatic finds the place of its image itself; others get the images first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.errors import UsageError
from dovetail.models.language import LanguageModel
from dovetail.run.tokenizer import Tokenizer


def prompt_tokens(
    model: LanguageModel, family: str, tokenizer: Tokenizer, prompt: str, num_images: int
) -> list[int]:
    """The ids of a prompt.

    Raises:
        UsageError: the model takes no images, or its template has another number of placeholders.
    """
    image = image_token(model)
    if num_images and not takes_images(model):
        raise UsageError(f"{family} is a text model: it takes no images", hint="leave --image out")
    if tokenizer.template is not None:
        ids = tokenizer.encode(tokenizer.chat([_message(prompt, num_images, takes_images(model))]))
        if image is not None and ids.count(image) != num_images:
            raise UsageError(
                f"the chat template makes {ids.count(image)} image placeholders for {num_images} images",
                hint="the tokenizer or the template beside the weights is of another model",
            )
        return ids
    if family == "paligemma":
        return [*[_known(image)] * num_images, *_begin(tokenizer), *tokenizer.encode(f"{prompt}\n")]
    if family == "prismatic":
        return [*_begin(tokenizer), *tokenizer.encode(prompt)]
    return [*[_known(image)] * num_images, *tokenizer.encode(prompt, with_specials=True)]


def takes_images(model: LanguageModel) -> bool:
    """Whether a model has eyes."""
    return hasattr(model, "vision")


def image_token(model: LanguageModel) -> int | None:
    """The id that stands for an image, None if the family has none."""
    found = getattr(getattr(model, "config", None), "image_token", None)
    return found if isinstance(found, int) else None


def _message(prompt: str, num_images: int, is_mixed: bool) -> Mapping[str, Any]:
    """One message of a user; models that take images want its content in pieces."""
    if not is_mixed:
        return {"role": "user", "content": prompt}
    images: Sequence[Mapping[str, str]] = [{"type": "image"}] * num_images
    return {"role": "user", "content": [*images, {"type": "text", "text": prompt}]}


def _begin(tokenizer: Tokenizer) -> list[int]:
    first = tokenizer.special("bos_token")
    return [] if first is None else [first]


def _known(token: int | None) -> int:
    if token is None:
        raise UsageError(
            "nothing says which token stands for an image", hint="put config.json beside the weights"
        )
    return token
