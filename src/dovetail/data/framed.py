"""A conversation in the frame that a family declares, where there is no chat template.

    prompt in its frame, cut into tokens as when the model is asked | the answer, by itself | the stop token

Sources: TRI-ML/prismatic-vlms@4fcd061 `preprocessing/datasets/datasets.py:FinetuneDataset`;
transformers@5.23.0 `processing_paligemma.py` (`suffix`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.data.marked import Marked, answers, num_seen, without_breaks
from dovetail.data.sample import Turn
from dovetail.errors import UsageError
from dovetail.inputs.framed import cleaned, framed_tokens, later_tokens
from dovetail.inputs.language import LanguageInputs
from dovetail.inputs.tokenizer import Tokenizer


class Framed:
    """Makes rows of conversations in the family's frame. `config` is the model's, which may name the frame;
    `stop` are the tokens that end an answer."""

    def __init__(
        self,
        inputs: LanguageInputs,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        stop: frozenset[int],
    ) -> None:
        self._inputs, self._tokenizer, self._config, self._stop = inputs, tokenizer, config, stop

    def marked(self, turns: Sequence[Turn], learn: str) -> Marked:
        """The tokens of a conversation: the images, then prompts and answers in turn.

        Raises:
            UsageError: the frame has no place for a turn, or for an image where it stands.
        """
        chosen = answers(turns, learn)
        self._check(turns)
        images, _ = num_seen(turns)
        end = self._end()
        tokens, is_learned = [], []
        for i, turn in enumerate(turns):
            is_answer = turn.role == "assistant"
            piece = self._answer(turn, end) if is_answer else self._prompt(turn, images if i == 0 else None)
            tokens += piece
            is_learned += [is_answer and i in chosen] * len(piece)
        return Marked(tokens, is_learned, end is not None)

    def _check(self, turns: Sequence[Turn]) -> None:
        """Makes sure that prompts and answers alternate, with all images in the first one.

        Raises:
            UsageError: they do not.
        """
        wanted = ["user", "assistant"] * (-(-len(turns) // 2))
        found = [turn.role for turn in turns]
        if found != wanted:
            raise UsageError(
                "there is no chat template, and the frame of the family takes prompts and answers in turn",
                expected="user, assistant, and so on",
                found=", ".join(found),
                hint="leave other turns out, or put the model's chat_template.jinja beside the weights",
            )
        if any(not isinstance(piece, str) for turn in turns[1:] for piece in turn.pieces):
            raise UsageError(
                "there is no chat template, and the frame of the family shows images in the first turn only",
                hint="name all images in the first turn",
            )

    def _prompt(self, turn: Turn, images: int | None) -> list[int]:
        """The ids of a prompt; `images` come before the first one."""
        text = "".join(piece for piece in without_breaks(turn.pieces) if isinstance(piece, str))
        prompt = self._inputs.prompt
        if images is not None:
            token = self._inputs.image_token
            has_places = prompt.has_image_tokens and token is not None
            places = [token] * images if has_places and token is not None else []
            return framed_tokens(prompt, text, self._tokenizer, config=self._config, images=places)
        ids = later_tokens(prompt, text, self._tokenizer, config=self._config)
        if ids is None:
            raise UsageError(
                "there is no chat template, and the frame of the family has one prompt and one answer",
                hint="write a record for each answer, or put a chat_template.jinja beside the weights",
            )
        return ids

    def _answer(self, turn: Turn, end: int | None) -> list[int]:
        text = turn.text if self._inputs.prompt.clean == "nothing" else cleaned(turn.text, "strip")
        return [*self._tokenizer.encode(text), *([] if end is None else [end])]

    def _end(self) -> int | None:
        """The token that ends an answer: the tokenizer's, else the smallest that a config names."""
        own = self._tokenizer.special("eos_token")
        return own if own is not None else min(self._stop, default=None)
