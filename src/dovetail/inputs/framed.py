"""A prompt put into the frame that a family declares (`Family.prompt`), as text and as tokens."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from dovetail.declare.prompt import Prompt
from dovetail.errors import UsageError
from dovetail.inputs.tokenizer import Tokenizer


def framed_tokens(
    prompt: Prompt,
    text: str,
    tokenizer: Tokenizer,
    *,
    config: Mapping[str, Any],
    images: Sequence[int] = (),
    state: str = "",
) -> list[int]:
    """The ids of a prompt in its frame. `images` are the placeholders that come first; `state` is what the
    frame says of a robot's state; `config` may name the frame.

    Raises:
        UsageError: the config names a language model that is asked in a way of its own.
    """
    whole = frame_of(prompt, config).format(prompt=cleaned(text, prompt.clean), state=state)
    if prompt.begin == "bos":
        first = tokenizer.special("bos_token")
        ids = [*([] if first is None else [first]), *tokenizer.encode(whole)]
    else:
        ids = tokenizer.encode(whole, with_specials=True)
    tail = tokenizer.encode(prompt.tail) if prompt.tail else []
    return [*images, *ids, *tail]


def later_tokens(
    prompt: Prompt, text: str, tokenizer: Tokenizer, *, config: Mapping[str, Any]
) -> list[int] | None:
    """The ids of a prompt that follows an answer, None where the frame has one turn only.

    Raises:
        UsageError: the config names a language model that is asked in a way of its own.
    """
    frame = dict(prompt.later).get(frame_of(prompt, config))
    if frame is None:
        return None
    tail = tokenizer.encode(prompt.tail) if prompt.tail else []
    return [*tokenizer.encode(frame.format(prompt=cleaned(text, prompt.clean), state="")), *tail]


def frame_of(prompt: Prompt, config: Mapping[str, Any]) -> str:
    """The frame of a model whose config may name its language model.

    Raises:
        UsageError: it names one that is asked in a way of its own.
    """
    name = next((found for key in prompt.frames_by if (found := _at(config, key)) is not None), None)
    if name is None:
        return prompt.frame
    for pattern, frame in prompt.frames:
        if fnmatchcase(name, pattern):
            return frame
    raise UsageError(
        f"how `{name}` is asked is not known here",
        hint="give the whole prompt as it was trained, with --raw",
    )


def cleaned(text: str, how: str) -> str:
    """A prompt as its frame takes it: as it is, without blanks at its ends, or as one line without
    underscores.

    >>> cleaned(" pick_up the\\nfork ", "one_line")
    'pick up the fork'
    """
    if how == "nothing":
        return text
    stripped = text.strip()
    return stripped.replace("_", " ").replace("\n", " ") if how == "one_line" else stripped


def _at(config: Mapping[str, Any], key: str) -> str | None:
    """The text at a dotted key."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None
