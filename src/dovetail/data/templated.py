"""A conversation in the words of a chat template, and which of its tokens are learned.

What is learned is found by rendering prefixes, as TRL's `{% generation %}` cannot: most published templates
have no such marks, and then a mask comes out empty or total without a word.

    asked    prefix up to an answer, with the generation prompt      <user>What?</s><assistant>
    shown    prefix up to and with the answer                        <user>What?</s><assistant>A boat.</s>
    whole    the conversation                                        <user>What?</s><assistant>A boat.</s>...

Each must be the beginning of the next, as text and as tokens: else the model would be asked with other tokens
than it was trained with. The whole is cut into tokens at once, as transformers does it.

Source of what is rendered: transformers@5.23.0 `processing_utils.py:ProcessorMixin.apply_chat_template`.
"""

from collections.abc import Sequence
from typing import Any

from dovetail.data.marked import Marked, answers, end_of_answer, without_breaks
from dovetail.data.sample import Turn, Video
from dovetail.errors import UsageError
from dovetail.inputs.chat_template import ChatTemplate, Conversation, Message
from dovetail.inputs.chat_tokens import chat_tokens, word_for
from dovetail.inputs.language import LanguageInputs
from dovetail.inputs.tokenizer import Tokenizer

_PROBE = "dovetail"
_LIST = "'type': 'text'"
_LAST = "--learn last learns the last answer only; or write a conversation of its own for each answer"


class Templated:
    """Makes rows of conversations by a chat template. `stop` are the tokens that end an answer."""

    def __init__(
        self, inputs: LanguageInputs, tokenizer: Tokenizer, template: ChatTemplate, stop: frozenset[int]
    ) -> None:
        self._inputs, self._tokenizer, self._template, self._stop = inputs, tokenizer, template, stop
        self._in_pieces: frozenset[str] | None = None

    def marked(self, turns: Sequence[Turn], learn: str) -> Marked:
        """The tokens of a conversation.

        Raises:
            UsageError: the template refuses it, changes earlier turns, or leaves an answer out.
        """
        chosen = answers(turns, learn)
        messages = self.messages(turns)
        prefixes = [
            one
            for i in chosen
            for one in (Conversation(messages[:i]), Conversation(messages[: i + 1], False))
        ]
        whole, *texts = self._template.render_all([Conversation(messages, False), *prefixes])
        row = self._tokens(whole, turns, has_after=True)
        is_learned, has_end = [False] * len(row), True
        for i, asked, shown in zip(chosen, texts[::2], texts[1::2], strict=True):
            _check_texts(i, asked, shown, whole, turns[i].text)
            start = self._start(i, row, asked, turns)
            end = self._end(i, row, shown, turns)
            count, ends = end_of_answer(row[start:end], self._tokenizer, self._stop)
            is_learned[start : start + count] = [True] * count
            has_end = has_end and ends
        return Marked(row, is_learned, has_end)

    def messages(self, turns: Sequence[Turn]) -> list[Message]:
        """The conversation as templates take it: content in pieces, or as a text with words for images."""
        if not (self._inputs.takes_images and self._inputs.prompt.has_image_tokens):
            return [{"role": turn.role, "content": _joined(turn)} for turn in turns]
        if self._in_pieces is None:
            self._in_pieces = takes_pieces(self._template)
        return [
            {"role": turn.role, "content": (_pieces if turn.role in self._in_pieces else self._text)(turn)}
            for turn in turns
        ]

    def _text(self, turn: Turn) -> str:
        """A turn as one text, each image a line of its own, as LLaVA has it."""
        words = []
        for piece in without_breaks(turn.pieces):
            if isinstance(piece, str):
                words.append(piece)
                continue
            is_video = isinstance(piece, Video)
            token = self._inputs.video_token if is_video else self._inputs.image_token
            if is_video and (token is None or self._tokenizer.token(token) is None):
                raise UsageError(
                    "the tokenizer has no word for a video", hint="put the model's own tokenizer beside it"
                )
            words.append(f"{word_for(token, self._tokenizer)}\n")
        return "".join(words)

    def _tokens(self, text: str, turns: Sequence[Turn], *, has_after: bool) -> list[int]:
        num_images = sum(not isinstance(piece, str) for turn in turns for piece in turn.pieces)
        return chat_tokens(text, self._tokenizer, self._inputs, num_images=num_images, has_after=has_after)

    def _start(self, i: int, row: Sequence[int], asked: str, turns: Sequence[Turn]) -> int:
        """Where an answer begins.

        Raises:
            UsageError: the model would be asked with other tokens.
        """
        ids = self._tokens(asked, turns[:i], has_after=False)
        common = _common(ids, row)
        if common < len(ids):
            raise UsageError(
                f"turn {i}: the tokens before the answer change when the answer follows",
                expected=f"{self._tokenizer.written(ids[common:])!r}, as the model is asked",
                found=repr(self._tokenizer.written(row[common : common + len(ids) - common + 1])),
                hint="let the template end its generation prompt where a token ends (no blank at its end)",
            )
        return len(ids)

    def _end(self, i: int, row: Sequence[int], shown: str, turns: Sequence[Turn]) -> int:
        """Where the next turn begins; a blank may become part of its first token.

        Raises:
            UsageError: the answer has other tokens when something follows.
        """
        ids = self._tokens(shown, turns[: i + 1], has_after=False)
        common = _common(ids, row)
        if self._tokenizer.written(ids[common:]).strip():
            raise UsageError(
                f"turn {i}: the tokens of the answer change when a turn follows",
                expected=repr(self._tokenizer.written(ids[common:])),
                found=repr(self._tokenizer.written(row[common : common + len(ids) - common + 1])),
                hint="let the template put a special token between turns; " + _LAST,
            )
        return common


def takes_pieces(template: ChatTemplate) -> frozenset[str]:
    """The roles whose content a template takes in pieces: texts and images."""
    text = {"type": "text", "text": _PROBE}
    user: Message = {"role": "user", "content": [{"type": "image"}, text]}
    found = {"user"} if _is_taken(template, [user]) else set()
    if found:
        answer: Message = {"role": "assistant", "content": [text]}
        found |= {"assistant"} if _is_taken(template, [user, answer]) else set()
        system: Message = {"role": "system", "content": [text]}
        found |= {"system"} if _is_taken(template, [system, user]) else set()
    return frozenset(found)


def _is_taken(template: ChatTemplate, messages: list[Message]) -> bool:
    """Whether every text is shown as it is: lists may be printed as Python writes them."""
    try:
        (text,) = template.render_all([Conversation(messages, False)])
    except UsageError:
        return False
    return text.count(_PROBE) == len(messages) and _LIST not in text


def _pieces(turn: Turn) -> list[dict[str, Any]]:
    """A turn in pieces, in their order."""
    return [
        {"type": "text", "text": piece}
        if isinstance(piece, str)
        else {"type": "video" if isinstance(piece, Video) else "image"}
        for piece in without_breaks(turn.pieces)
    ]


def _joined(turn: Turn) -> str:
    """A turn as one text, in which nothing stands for images."""
    return "".join(piece for piece in without_breaks(turn.pieces) if isinstance(piece, str))


def _check_texts(i: int, asked: str, shown: str, whole: str, answer: str) -> None:
    """Makes sure that each text is the beginning of the next, and that the answer is shown.

    Raises:
        UsageError: one is not.
    """
    if not shown.startswith(asked):
        raise _changed(
            f"turn {i}: the template asks for an answer in other words than those that it writes before one",
            asked,
            shown,
            hint="give a template whose generation prompt is how an answer begins",
        )
    if not whole.startswith(shown.rstrip()):
        message = f"the template writes the conversation up to turn {i} otherwise when turns follow"
        raise _changed(message, shown, whole, hint=_LAST)
    thoughtless = answer.rpartition("</think>")[2]  # templates write thoughts in their own way
    said = thoughtless.strip() or answer.strip()
    around = shown[len(asked) :].split(said)
    if len(around) < 2 or any(_LIST in text for text in around):
        raise UsageError(
            f"turn {i}: the template does not show the answer as it is",
            expected=_excerpt(said, 0),
            found=_excerpt(shown, len(asked)),
            hint="give the chat template of this model: chat_template.jinja beside the weights",
        )


def _changed(message: str, expected: str, found: str, *, hint: str) -> UsageError:
    at = _common(expected, found)
    return UsageError(message, expected=_excerpt(expected, at), found=_excerpt(found, at), hint=hint)


def _excerpt(text: str, at: int) -> str:
    """Some of a text around a place."""
    start = max(0, at - 20)
    cut = text[start : at + 50]
    return ("..." if start else "") + repr(cut)[1:-1] + ("..." if at + 50 < len(text) else "")


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
