"""`generate`: a prompt and images in, text out, as it comes.

    generator = Generator.load("Qwen2-VL-2B-Instruct")
    for text in generator.stream("What is this?", [image], max_new_tokens=64):
        print(text, end="")

Sampling is what the caller says; of generation_config.json only the stop tokens are taken. Rows of the
token table that are no tokens of the tokenizer are never chosen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from dovetail.checkpoint import Path
from dovetail.errors import UsageError
from dovetail.inputs.language import no_images
from dovetail.inputs.prompt import Prompter
from dovetail.inputs.stop_tokens import stop_tokens
from dovetail.inputs.tokenizer import SideValues, Tokenizer, read_side_values, read_tokenizer
from dovetail.loading.load import Dtype, load
from dovetail.models.kernels import Weights, choose_kernels, is_worth_packing
from dovetail.models.language import LanguageModel
from dovetail.models.stage import Stage
from dovetail.report import Value
from dovetail.run.engine import answers
from dovetail.run.sampling import Sampling, chooser
from dovetail.store.open import open_checkpoint

_GREEDY = Sampling()
_MAX_STRETCH = 1e6  # of a context by rope scaling; real ones are 2 to 64
Prompt = str | Sequence[int]
Images = Sequence[np.ndarray]


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
        self._config = values.config
        self._values: Mapping[str, Value] = model.report.config  # type: ignore[union-attr, assignment]

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        device: str = "cpu",
        dtype: Dtype | None = None,
        settings: Mapping[str, Any] | None = None,
        as_: str | None = None,
        trust: str | None = None,
        weights: Weights | Literal["auto"] = "auto",
        new_tokens: int = 128,
    ) -> "Generator":
        """Loads model and tokenizer. `weights` stay as they are `stored`, are `packed` for this processor
        or cut to `int8` (`models/kernels.py`); `auto` packs them where `new_tokens` make up for it.

        Raises:
            UsageError: the checkpoint is of a family that does not speak.
            CheckpointError: it is not whole, or its tokenizer cannot be read.
        """
        with open_checkpoint(checkpoint) as store:
            values = read_side_values(store)
            tokenizer = read_tokenizer(store, values)
        if tokenizer is not None and tokenizer.template is not None:
            tokenizer.template.prepare()  # what renders it starts while the model is loaded
        model = load(checkpoint, device=device, dtype=dtype, settings=settings, as_=as_, trust=trust)
        if not isinstance(model, LanguageModel):
            raise UsageError(
                f"{type(model).__name__} does not generate text", hint="`dovetail act` runs policies"
            )
        if weights == "auto":
            weights = "packed" if is_worth_packing(model, new_tokens) else "stored"
        choose_kernels(model, weights)
        return cls(model, tokenizer, values)

    @property
    def vocab_used(self) -> int | None:
        """How many rows of the token table are tokens, None if nothing says it."""
        said = [value.value for name, value in self._values.items() if name.endswith(".vocab_used")]
        known = [self.tokenizer.size] if self.tokenizer else []
        return min([*said, *known], default=None)

    @property
    def assumptions(self) -> dict[str, Value]:
        """Settings of images that no file says."""
        return {
            name: value
            for name, value in self._values.items()
            if "." not in name and value.source == "default" and name.startswith(("image_", "min_", "max_"))
        }

    def tokens_of(self, prompt: Prompt, images: Images = (), *, is_raw: bool = False) -> list[int]:
        """The ids of a prompt; ids pass as they are.

        Raises:
            UsageError: there is no tokenizer for a text, or the model takes no images.
        """
        if not isinstance(prompt, str):
            if images and not self.model.inputs.takes_images:
                raise no_images(self.family)
            return self.model.inputs.checked(prompt)
        if self.tokenizer is None:
            raise UsageError(
                "there is no tokenizer beside the weights",
                hint="put tokenizer.json into the folder, or give token ids: --tokens 1,2,3",
            )
        prompter = Prompter(self.model.inputs, self.tokenizer, self._config)
        return prompter.tokens(prompt, len(images), is_raw=is_raw)

    def answer(self, prompt: Prompt, images: Images = (), **options: Any) -> Answer:
        """The whole answer to a prompt. Options and errors are those of `answers`."""
        return self.answers([prompt], [images] if len(images) else (), **options)[0]

    def answers(
        self,
        prompts: Sequence[Prompt],
        images: Sequence[Images] = (),
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        is_raw: bool = False,
    ) -> list[Answer]:
        """The answers to a batch of prompts, each with its images.

        Raises:
            UsageError: a prompt does not fit the model or its context.
        """
        each = images or [()] * len(prompts)
        rows = [self.tokens_of(prompt, of, is_raw=is_raw) for prompt, of in zip(prompts, each, strict=True)]
        found: list[list[int]] = [[] for _ in rows]
        prepared, steps = self._started(rows, each, max_new_tokens, sampling)
        for chosen in steps:
            for row, token in chosen.items():
                found[row].append(token)
        return [self._answer(row, length) for row, length in zip(found, prepared, strict=True)]

    def _started(
        self, rows: Sequence[Sequence[int]], images: Sequence[Images], new: int, sampling: Sampling
    ) -> tuple[list[int], Iterator[dict[int, int]]]:
        """The lengths of prompts and the steps of their answers."""
        if new < 1:
            raise UsageError(f"{new} new tokens cannot be generated", hint="--max-new-tokens is at least 1")
        inputs = self.model.prepare(rows, [list(of) for of in images] if any(map(len, images)) else ())
        lengths: list[int] = inputs["valid"].sum(dim=1).tolist()
        self._check_length(max(lengths), new)
        with torch.inference_mode():
            prompts = list(self.model.embed(**inputs).rows())
        stages = [Stage(self.model)]
        choose = chooser(sampling, self.vocab_used)
        return lengths, answers(stages, prompts, max_new_tokens=new, stop=self.stop, choose=choose)

    def _answer(self, tokens: list[int], length: int) -> Answer:
        text = None if self.tokenizer is None else self.tokenizer.decode(tokens)
        has_stopped = bool(tokens) and tokens[-1] in self.stop
        return Answer(tokens=tokens, text=text, prompt_tokens=length, has_stopped=has_stopped)

    def stream(
        self,
        prompt: Prompt,
        images: Images = (),
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        is_raw: bool = False,
    ) -> Iterator[str]:
        """The answer in pieces of text, as they are settled; token ids where there is no tokenizer.

        Who stops reading stops the model. Raises what `answers` raises.
        """
        row = self.tokens_of(prompt, images, is_raw=is_raw)
        _, steps = self._started([row], [images], max_new_tokens, sampling)
        text = None if self.tokenizer is None else self.tokenizer.stream()
        for chosen in steps:
            piece = f"{chosen[0]} " if text is None else text.push(chosen[0])
            if piece:
                yield piece
        if text is not None and (rest := text.rest()):
            yield rest

    def _check_length(self, prompt: int, new: int) -> None:
        if self.context is not None and prompt + new > self.context:
            raise UsageError(
                f"the prompt has {prompt} tokens and {new} more are wanted; the context holds {self.context}",
                hint=f"give --max-new-tokens {self.context - prompt}"
                if prompt < self.context
                else "shorten the prompt, or take smaller or fewer images",
            )


def context_length(values: SideValues) -> int | None:
    """How many tokens the model was made for, stretched by its rope scaling; None if no config says it."""
    config = values.config
    places = [config, *(config.get(name) for name in ("text_config", "llm_config"))]
    for section in (place for place in places if isinstance(place, dict)):
        if (found := _length(section.get("max_position_embeddings"))) is not None:
            return max(found, _stretched(section, found))
    run = config.get("model")
    return _length(run.get("llm_max_length")) if isinstance(run, dict) else None


def _length(said: object) -> int | None:
    """A number of tokens; whatever else a config has there says nothing."""
    return said if type(said) is int and said > 0 else None


def _stretched(section: Mapping[str, Any], length: int) -> int:
    """The length that a rope scaling reaches: its factor times the length before it."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = section.get(name)
        if isinstance(rope, dict) and isinstance(factor := rope.get("factor"), int | float):
            before = _length(rope.get("original_max_position_embeddings")) or length
            return int(min(factor, _MAX_STRETCH) * before) if factor > 1 else before  # NaN is not above 1
    return length


def generate(
    checkpoint: Path,
    prompt: Prompt,
    *,
    images: Images = (),
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    raw: bool = False,
    device: str = "cpu",
    dtype: Dtype | None = None,
    weights: Weights | Literal["auto"] = "auto",
    set: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
) -> Answer:
    """What a checkpoint answers to one prompt; who asks often loads a `Generator` once.

    The words are those of `dovetail generate`.

    Raises:
        CheckpointError: the checkpoint is not whole.
        UsageError: it is of a family that does not speak, or the prompt does not fit it.
    """
    generator = Generator.load(
        checkpoint,
        device=device,
        dtype=dtype,
        settings=set,
        as_=as_,
        trust=trust,
        weights=weights,
        new_tokens=max_new_tokens,
    )
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return generator.answer(prompt, images, max_new_tokens=max_new_tokens, sampling=sampling, is_raw=raw)
