"""`generate`: a prompt and images in, text out, as it comes.

generator = Generator.load("Qwen2-VL-2B-Instruct")
for text in generator.stream("What is this?", [image], max_new_tokens=64):
    print(text, end="")
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.models.language import LanguageModel
from dovetail.run.load import Dtype, Path, load
from dovetail.run.prompt import prompt_tokens, takes_images
from dovetail.run.sampling import Sampling, chooser
from dovetail.run.tokenizer import SideValues, Tokenizer, read_side_values, read_tokenizer
from dovetail.store.open import open_checkpoint

_GREEDY = Sampling()
OnToken = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The new tokens, and their text if there is a tokenizer; `has_stopped` unless the length ended it."""

    tokens: list[int]
    text: str | None
    prompt_tokens: int
    has_stopped: bool


class Generator:
    """A model with its tokenizer, if the folder has one."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer | None, values: SideValues) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.family: str = model.report.family  # type: ignore[union-attr, assignment]
        self.stop = stop_tokens(tokenizer, values)
        self.context = context_length(values)
        config: Mapping[str, Any] = model.report.config  # type: ignore[union-attr, assignment]
        used = [value.value for name, value in config.items() if name.endswith(".vocab_used")]
        self.vocab_used: int | None = used[0] if used else None

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        device: str = "cpu",
        dtype: Dtype | None = None,
        settings: Mapping[str, Any] | None = None,
        as_: str | None = None,
    ) -> "Generator":
        """Loads model and tokenizer.

        Raises:
            UsageError: the checkpoint is of a family that does not speak.
            CheckpointError: it is not whole, or its tokenizer cannot be read.
        """
        model = load(checkpoint, device=device, dtype=dtype, settings=settings, as_=as_)
        if not isinstance(model, LanguageModel):
            raise UsageError(
                f"{type(model).__name__} does not generate text", hint="`dovetail act` runs policies"
            )
        with open_checkpoint(checkpoint) as store:
            values = read_side_values(store)
            return cls(model, read_tokenizer(store, values), values)

    def tokens_of(self, prompt: str | Sequence[int], images: Sequence[Any] = ()) -> list[int]:
        """The ids of a prompt; ids pass as they are.

        Raises:
            UsageError: there is no tokenizer for a text, or the model takes no images.
        """
        if not isinstance(prompt, str):
            if images and not takes_images(self.model):
                raise UsageError(
                    f"{self.family} is a text model: it takes no images", hint="leave --image out"
                )
            return list(prompt)
        if self.tokenizer is None:
            raise UsageError(
                "there is no tokenizer beside the weights",
                hint="put tokenizer.json into the folder, or give token ids: --tokens 1,2,3",
            )
        return prompt_tokens(self.model, self.family, self.tokenizer, prompt, len(images))

    def answer(
        self,
        prompt: str | Sequence[int],
        images: Sequence[np.ndarray] = (),
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        on_token: OnToken | None = None,
    ) -> Answer:
        """The whole answer to a prompt. `on_token` is told each new token when it is chosen.

        Raises:
            UsageError: the prompt does not fit the model or its context.
        """
        ids = self.tokens_of(prompt, images)
        inputs = self.model.prepare([ids], [list(images)] if images else ())
        length = int(inputs["tokens"].shape[1]) if "tokens" in inputs else len(ids)
        self._check_length(length, max_new_tokens)
        choose = chooser(sampling, self.vocab_used)

        def told(logits: Tensor) -> Tensor:
            token = choose(logits)
            if on_token is not None:
                on_token(int(token[0]))
            return token

        found = self.model.generate(inputs, max_new_tokens=max_new_tokens, stop=self.stop, choose=told)
        tokens = found[0].tolist()
        has_stopped = bool(tokens) and tokens[-1] in self.stop
        text = None if self.tokenizer is None else self.tokenizer.decode(tokens)
        return Answer(tokens=tokens, text=text, prompt_tokens=length, has_stopped=has_stopped)

    def stream(
        self,
        prompt: str | Sequence[int],
        images: Sequence[np.ndarray] = (),
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
    ) -> Iterator[str]:
        """The answer in pieces of text, as they are settled; token ids where there is no tokenizer."""
        queue: SimpleQueue[int | BaseException | None] = SimpleQueue()

        def run() -> None:
            try:
                self.answer(
                    prompt, images, max_new_tokens=max_new_tokens, sampling=sampling, on_token=queue.put
                )
                queue.put(None)
            except BaseException as error:  # noqa: BLE001 - raised again where the text is read
                queue.put(error)

        Thread(target=run, daemon=True).start()
        text = self.tokenizer.stream() if self.tokenizer else None
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            piece = f"{item} " if text is None else text.push(item)
            if piece:
                yield piece

    def _check_length(self, prompt: int, new: int) -> None:
        if new < 1:
            raise UsageError(f"{new} new tokens cannot be generated", hint="--max-new-tokens is at least 1")
        if self.context is not None and prompt + new > self.context:
            raise UsageError(
                f"the prompt has {prompt} tokens and {new} more are wanted; the context holds {self.context}",
                hint=f"give --max-new-tokens {self.context - prompt}"
                if prompt < self.context
                else "shorten the prompt, or take smaller or fewer images",
            )


def stop_tokens(tokenizer: Tokenizer | None, values: SideValues) -> frozenset[int]:
    """The tokens that end an answer, by generation_config.json, else config.json, else the tokenizer."""
    text = values.config.get("text_config")
    for place in (values.generation, values.config, text if isinstance(text, dict) else {}):
        said = place.get("eos_token_id")
        if isinstance(said, int):
            return frozenset({said})
        if isinstance(said, list) and said and all(isinstance(one, int) for one in said):
            return frozenset(said)
    end = tokenizer.special("eos_token") if tokenizer else None
    return frozenset() if end is None else frozenset({end})


def context_length(values: SideValues) -> int | None:
    """How many tokens the model was made for, None if no config says it."""
    for section in (values.config, values.config.get("text_config"), values.config.get("llm_config")):
        if isinstance(section, dict) and isinstance(found := section.get("max_position_embeddings"), int):
            return found
    return None
