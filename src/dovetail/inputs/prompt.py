"""A prompt and its images as the token ids that a model takes, with one placeholder for each image.

A chat template decides where there is one. Templates differ in what they take: pieces of text and image,
or plain text only. One of the latter gets the images before the text, each on a line of its own, as LLaVA
has it. Without a template the family's frame decides (`Family.prompt`), behind the images.

Where no token stands for an image (Prismatic), the model's inputs find its place. A raw prompt is taken as it
is: no template, no frame; images that it names no place for come first.

The processor of a model that takes images puts the tokenizer's special tokens around what a template made,
unless that begins with BOS; a tokenizer alone never does.

Sources: LLaVA-VL/LLaVA-NeXT `llava/mm_utils.py:tokenizer_image_token`; transformers@5.23.0
`processing_utils.py:ProcessorMixin.apply_chat_template`; frames: those of the families.
"""

from collections.abc import Mapping
from typing import Any

from dovetail.errors import UsageError
from dovetail.inputs.chat_template import ChatTemplate, Message, TakesTextOnly
from dovetail.inputs.chat_tokens import chat_tokens, word_for
from dovetail.inputs.framed import framed_tokens
from dovetail.inputs.language import LanguageInputs, no_images
from dovetail.inputs.tokenizer import Tokenizer


class Prompter:
    """Makes the token ids of prompts. `config` is the model's config.json, which may name its frame."""

    def __init__(self, inputs: LanguageInputs, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
        self._inputs, self._tokenizer, self._config = inputs, tokenizer, config
        self._prompt = inputs.prompt

    def tokens(self, prompt: str, num_images: int, *, is_raw: bool = False) -> list[int]:
        """The ids of a prompt.

        Raises:
            UsageError: the model takes no images, or the prompt has another number of places for them.
        """
        if num_images and not self._inputs.takes_images:
            raise no_images(self._inputs.family)
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
        if not self._prompt.has_image_tokens or self._inputs.image_token in ids:
            return ids
        return [*self._images(num_images), *ids]

    def _chat(self, template: ChatTemplate, prompt: str, num_images: int) -> list[int]:
        """The ids of a conversation of one message."""
        text: str | None = None
        if self._inputs.takes_images and self._prompt.has_image_tokens:
            text = _in_pieces(template, prompt, num_images)
            place = word_for(self._inputs.image_token, self._tokenizer)
            prompt = f"{place}\n" * num_images + prompt if text is None else prompt
        if text is None:
            text = template.render([{"role": "user", "content": prompt}])
        return chat_tokens(text, self._tokenizer, self._inputs, num_images=num_images)

    def _framed(self, prompt: str, num_images: int) -> list[int]:
        """The ids of a prompt as the family wants it where there is no template."""
        images = self._images(num_images) if self._prompt.has_image_tokens else []
        return framed_tokens(self._prompt, prompt, self._tokenizer, config=self._config, images=images)

    def _images(self, count: int) -> list[int]:
        token = self._inputs.image_token
        if count and token is None:
            raise UsageError(
                "nothing says which token stands for an image", hint="put config.json beside the weights"
            )
        return [token] * count if token is not None else []

    def _check(self, ids: list[int], num_images: int) -> None:
        token = self._inputs.image_token
        found = 0 if token is None else ids.count(token)
        is_placed_later = not self._prompt.has_image_tokens and not found
        if found != num_images and not is_placed_later:
            raise UsageError(
                f"the prompt has {found} image placeholders, and there are {num_images} images",
                image_token=token,
                hint="leave image tokens out of the prompt; if it has none, tokenizer or chat template are "
                "of another model",
            )


def _in_pieces(template: ChatTemplate, prompt: str, num_images: int) -> str | None:
    """The conversation with its content in pieces, None if the template takes text only."""
    pieces: list[Message] = [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]
    try:
        text = template.render([{"role": "user", "content": pieces}])
    except TakesTextOnly:
        return None
    has_both = prompt.strip() in text and "'type': 'text'" not in text
    return text if has_both else None
