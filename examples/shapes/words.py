"""The words of questions about shapes, one token each, and the chat template that frames them."""

from functools import cache

from examples.shapes.questions import plural
from examples.shapes.scenes import COLORS, FORMS, MORE_COLORS, MORE_FORMS

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<unk>"
USER, ASSISTANT, SYSTEM = "<|user|>", "<|assistant|>", "<|system|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIALS = (PAD, END, UNKNOWN, USER, ASSISTANT, SYSTEM, VISION_START, VISION_END, IMAGE, VIDEO)
WORDS = (
    *(
        "?",
        ".",
        ",",
        "a",
        "an",
        "and",
        "the",
        "is",
        "are",
        "what",
        "which",
        "how",
        "many",
        "there",
        "in",
        "of",
    ),
    *("colour", "color", "shape", "shapes", "one", "left", "right", "above", "below", "describe", "picture"),
    *("0", "1", "2", "3"),
    *COLORS,
    *MORE_COLORS,
    *FORMS,
    *MORE_FORMS,
    *map(plural, FORMS + MORE_FORMS),
)
VOCABULARY = (*SPECIALS, *WORDS)
VOCAB = 80  # rows of the token table; those behind the words are never used
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for piece in message.content %}"
    "{% if piece.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif piece.type == 'text' %}{{ piece.text }}{% endif %}{% endfor %}{% endif %}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@cache
def ids(text: str) -> list[int]:
    """The tokens of a text of known words, as the tokenizer makes them (a test compares both)."""
    return [_IDS[word] for word in text.replace("?", " ?").replace(".", " .").replace(",", " ,").split()]


_IDS = {word: i for i, word in enumerate(VOCABULARY)}
