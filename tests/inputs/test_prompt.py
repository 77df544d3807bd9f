"""Prompts become the tokens that transformers makes of them, for every family, tokenizer and template."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

from tokenizers import processors

from dovetail.inputs.prompt import Prompter
from dovetail.inputs.tokenizer import tokenizer_at
from inputs.every_family import LANGUAGE, TEXT, inputs_for
from run.beside import LLAMA, LLAVA_TEMPLATE, byte_level, sentence_pieces

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = "What is in the picture?"
PLAIN = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"


def around(one: Any) -> Any:
    """A tokenizer that puts a token before and one behind a text."""
    ids = [(token, one.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    one.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ids
    )
    return one


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "none": lambda: byte_level([*LLAMA, "<image>"], eos_token="</s>"),
    "bos": lambda: sentence_pieces([*LLAMA, "<image>"], "<s>", eos_token="</s>"),
    "bos and eos": lambda: around(sentence_pieces([*LLAMA, "<image>"], "<s>", eos_token="</s>")),
    "bos is never put": lambda: byte_level([*LLAMA, "<image>"], bos_token="<s>", eos_token="</s>"),
}
TEMPLATES = {
    "pieces": LLAVA_TEMPLATE,
    "pieces behind bos": "{{ bos_token }}" + LLAVA_TEMPLATE,
    "text": PLAIN,
    "text behind bos": "{{ bos_token }}" + PLAIN,
}


class Alone(transformers.ProcessorMixin):  # type: ignore[misc]
    """A processor of transformers with nothing but a tokenizer."""

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


@cache
def tokenizer_of(kind: str) -> Any:
    """A tokenizer, trained once."""
    return TOKENIZERS[kind]()


def expected(family: str, tokenizer: Any, template: str, num_images: int) -> list[int]:
    """What transformers makes of a message; its tokenizers alone add nothing."""
    if family in TEXT:
        tokenizer.chat_template = template
        ids = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
        return list(ids["input_ids"])
    pieces: Any = [*[{"type": "image"}] * num_images, {"type": "text", "text": PROMPT}]
    content = pieces if "piece" in template else "<image>\n" * num_images + PROMPT
    processor = Alone(tokenizer, template)
    options: dict[str, Any] = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    found = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    ids = found["input_ids"]
    return list(ids[0] if isinstance(ids[0], list) else ids)


@pytest.mark.parametrize("family", [*LANGUAGE, *TEXT])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_are_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    tokenizer.save_pretrained(tmp_path)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    inputs = inputs_for(family, **({"image_token": image_token} if family in LANGUAGE else {}))
    for name, template in TEMPLATES.items():
        if family in TEXT and "text" not in name:
            continue
        (tmp_path / "chat_template.jinja").write_text(template)
        num_images = 2 if family in LANGUAGE and inputs.prompt.has_image_tokens else 0
        if family in LANGUAGE and not num_images and "text" not in name:
            continue  # its own template takes text only
        found = Prompter(inputs, tokenizer_at(tmp_path), {}).tokens(PROMPT, num_images)
        assert found == expected(family, tokenizer, template, num_images), name


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_place_without_a_word_is_found_all_the_same(kind: str, tmp_path: Path) -> None:
    """LLaVA-NeXT's placeholder is no token of the tokenizer: -200, or a row behind its own."""
    tokenizer = tokenizer_of(kind)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    known = tokenizer.convert_tokens_to_ids("<image>")
    named = Prompter(inputs_for("llava", image_token=known), tokenizer_at(tmp_path), {}).tokens(PROMPT, 1)
    unnamed = Prompter(inputs_for("llava", image_token=-200), tokenizer_at(tmp_path), {}).tokens(PROMPT, 1)
    assert unnamed == [-200 if one == known else one for one in named]
