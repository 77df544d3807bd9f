"""A prompt and its images as the token ids that a family wants, with one placeholder for each image.

A chat template decides where there is one. Templates differ in what they take: pieces of text and image,
or plain text only. One of the latter gets the images before the text, each on a line of its own, as LLaVA
has it. Without a template:

    paligemma    image ... <bos> prompt newline
    prismatic    <bos> prompt, put as its language model was taught it:
                   *-pure, or nobody says    "In: prompt\\nOut:"
                   vicuna-v15-*              "A chat between ... USER: prompt ASSISTANT:"
    others       image ... prompt, with the special tokens that the tokenizer puts around a text

Prismatic has no placeholder: its image goes behind the first token. A raw prompt is taken as it is: no
template, no frame; images that it names no place for come first.

Sources: transformers@5.23.0 `processing_paligemma.py`; TRI-ML/prismatic-vlms@4fcd061
`models/backbones/llm/prompting/*.py`; LLaVA-VL/LLaVA-NeXT `llava/mm_utils.py:tokenizer_image_token`.
"""

from collections.abc import Mapping
from typing import Any

from dovetail.errors import UsageError
from dovetail.inputs.chat_template import ChatTemplate, Message
from dovetail.inputs.tokenizer import Tokenizer
from dovetail.models.language import LanguageModel

_PLACE = "\ufffc"  # the object replacement character: an image, in a text that has no word for it
_IN_OUT = "In: {}\nOut:"
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: {} ASSISTANT:"
)


class Prompter:
    """Makes the token ids of prompts for a model."""

    def __init__(
        self, model: LanguageModel, family: str, tokenizer: Tokenizer, config: Mapping[str, Any]
    ) -> None:
        self._tokenizer, self._family, self._config = tokenizer, family, config
        self._is_mixed = takes_images(model)
        self._image = image_token(model)

    def tokens(self, prompt: str, num_images: int, *, is_raw: bool = False) -> list[int]:
        """The ids of a prompt.

        Raises:
            UsageError: the model takes no images, or the prompt has another number of places for them.
        """
        if num_images and not self._is_mixed:
            raise no_images(self._family)
        template = self._tokenizer.template
        if is_raw:
            ids = self._raw(prompt, num_images)
        elif template is not None:
            ids = self._chat(template, prompt, num_images)
        else:
            ids = self._framed(prompt, num_images)
        self._check(ids, num_images)
        return ids

    def _raw(self, prompt: str, num_images: int) -> list[int]:
        ids = self._tokenizer.encode(prompt, with_specials=True)
        if self._family == "prismatic" or self._image in ids:
            return ids
        return [*self._images(num_images), *ids]

    def _chat(self, template: ChatTemplate, prompt: str, num_images: int) -> list[int]:
        """The ids of a conversation of one message."""
        if self._is_mixed and self._family != "prismatic":
            text = _in_pieces(template, prompt, num_images)
            if text is not None:
                return self._tokenizer.encode(text)
            prompt = f"{_PLACE}\n" * num_images + prompt
        text = template.render([{"role": "user", "content": prompt}])
        first, *rest = text.split(_PLACE)
        ids = self._tokenizer.encode(first)
        for piece in rest:
            ids += [*self._images(1), *self._tokenizer.encode(piece)]
        return ids

    def _framed(self, prompt: str, num_images: int) -> list[int]:
        """The ids of a prompt as the family wants it where there is no template."""
        if self._family == "paligemma":
            return [
                *self._images(num_images),
                *self._begin(),
                *self._tokenizer.encode(f"{prompt}\n"),
            ]
        if self._family == "prismatic":
            frame = prismatic_frame(self._config)
            return [*self._begin(), *self._tokenizer.encode(frame.format(prompt.strip()))]
        return [*self._images(num_images), *self._tokenizer.encode(prompt, with_specials=True)]

    def _images(self, count: int) -> list[int]:
        if count and self._image is None:
            raise UsageError(
                "nothing says which token stands for an image", hint="put config.json beside the weights"
            )
        return [self._image] * count if self._image is not None else []

    def _begin(self) -> list[int]:
        first = self._tokenizer.special("bos_token")
        return [] if first is None else [first]

    def _check(self, ids: list[int], num_images: int) -> None:
        """Prismatic alone finds the place of its image itself."""
        found = 0 if self._image is None else ids.count(self._image)
        if found != num_images and not (self._family == "prismatic" and not found):
            raise UsageError(
                f"the prompt has {found} image placeholders, and there are {num_images} images",
                image_token=self._image,
                hint="leave image tokens out of the prompt; if it has none, tokenizer or chat template are "
                "of another model",
            )


def takes_images(model: LanguageModel) -> bool:
    """Whether a model has eyes."""
    return "vision" in dict(model.named_children())


def image_token(model: LanguageModel) -> int | None:
    """The id that stands for an image, None if the family has none."""
    found = getattr(getattr(model, "config", None), "image_token", None)
    return found if isinstance(found, int) else None


def no_images(family: str) -> UsageError:
    """The error of an image for a model without eyes."""
    return UsageError(f"{family} is a text model: it takes no images", hint="leave --image out")


def prismatic_frame(config: Mapping[str, Any]) -> str:
    """How the language model of a Prismatic was taught to be asked, by its name in config.json.

    Raises:
        UsageError: it is one that is asked in a way of its own.
    """
    model = config.get("model")
    name = {**config, **(model if isinstance(model, dict) else {})}.get("llm_backbone_id")
    if not isinstance(name, str) or name.endswith("-pure"):
        return _IN_OUT
    if name.startswith("vicuna-v15"):
        return _VICUNA
    raise UsageError(
        f"how `{name}` is asked is not known here",
        hint="give the whole prompt as it was trained, with --raw",
    )


def _in_pieces(template: ChatTemplate, prompt: str, num_images: int) -> str | None:
    """The conversation with its content in pieces, None if the template takes text only."""
    pieces: list[Message] = [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]
    try:
        text = template.render([{"role": "user", "content": pieces}])
    except UsageError as error:
        if isinstance(error.__cause__, TypeError):  # it adds the list to a text
            return None
        raise
    has_both = prompt.strip() in text and "'type': 'text'" not in text
    return text if has_both else None
