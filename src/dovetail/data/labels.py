"""What is learned of a sample: its tokens, and for each whether it is a target.

    labeller = read_labeller("Qwen2-VL-2B-Instruct")       tokenizer, template and sizes; no weights
    row = labeller.labelled(sample)                        tokens, targets, images
    certificate(labeller, samples)                         what is learned, before the first step

A target is a token of an answer or the one that ends it; everything else is `IGNORED`. Conversations are
made by the checkpoint's chat template (`templated.py`), else in the frame of the family (`framed.py`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dovetail.checkpoint import Path, opened
from dovetail.data.framed import Framed
from dovetail.data.marked import LEARN, Marked, num_seen
from dovetail.data.sample import Sample, Seen
from dovetail.data.templated import Templated
from dovetail.errors import DataError, DovetailError, UsageError
from dovetail.inputs import build
from dovetail.inputs.language import LanguageInputs, no_images
from dovetail.inputs.rows import IGNORED
from dovetail.inputs.stop_tokens import stop_tokens
from dovetail.inputs.tokenizer import Tokenizer, read_side_values, read_tokenizer
from dovetail.inputs.values import values_of

ROLES = ("system", "user", "assistant")


class Labelled(NamedTuple):
    """A sample as the model learns it: token ids with one placeholder for each image, a target for each
    token, and the images, not decoded. `has_end`: answers end with a token at which generation stops."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    images: tuple[Seen, ...]
    kind: str | None
    place: str
    has_end: bool = True

    @property
    def num_learned(self) -> int:
        """How many tokens are targets."""
        return sum(target != IGNORED for target in self.targets)


class Labeller:
    """Makes rows and their targets of samples. It may be sent to the workers of a data loader.

    `config` is the model's config.json; `stop` the tokens that end an answer; `learn` says whether all
    answers of a conversation are learned or the last only.

    Raises:
        UsageError: `learn` is neither.
    """

    def __init__(
        self,
        inputs: LanguageInputs,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        *,
        stop: frozenset[int] = frozenset(),
        learn: str = "all",
    ) -> None:
        if learn not in LEARN:
            raise UsageError(f"answers cannot be learned by `{learn}`", hint=f"one of: {', '.join(LEARN)}")
        self.inputs, self.tokenizer, self.learn = inputs, tokenizer, learn
        template = tokenizer.template
        self._rows: Templated | Framed = (
            Framed(inputs, tokenizer, config, stop)
            if template is None
            else Templated(inputs, tokenizer, template, stop)
        )

    @property
    def source(self) -> str:
        """Where the words around a conversation come from, for people."""
        if isinstance(self._rows, Templated):
            return "the checkpoint's chat template"
        return f"the frame of {self.inputs.family} (there is no chat template)"

    def labelled(self, sample: Sample) -> Labelled:
        """The tokens of a sample and what of them is learned.

        Raises:
            DataError: nothing or everything would be learned, the template changes earlier turns, images
                and their tokens do not match, or a role is unknown. The error names the sample.
        """
        try:
            self._check(sample)
            marked = self._rows.marked(sample.turns, self.learn)
            self._check_row(marked, sample)
        except UsageError as error:
            raise of_sample(error, sample.place) from None
        pairs = zip(marked.tokens, marked.is_learned, strict=True)
        targets = tuple(token if is_learned else IGNORED for token, is_learned in pairs)
        images = tuple(sample.seen())
        return Labelled(tuple(marked.tokens), targets, images, sample.kind, sample.place, marked.has_end)

    def pieces(self, row: Labelled) -> list[tuple[str, bool]]:
        """The text of a row in pieces, each with whether it is learned, special tokens written out."""
        found: list[tuple[list[int], bool]] = []
        for token, target in zip(row.tokens, row.targets, strict=True):
            is_learned = target != IGNORED
            if not found or found[-1][1] != is_learned:
                found.append(([], is_learned))
            found[-1][0].append(token)
        return [(self._written(ids), is_learned) for ids, is_learned in found]

    def _written(self, ids: list[int]) -> str:
        """The text of tokens; a placeholder that the tokenizer does not have is named."""
        unnamed = self.inputs.image_token
        if unnamed is None or self.tokenizer.token(unnamed) is not None or unnamed not in ids:
            return self.tokenizer.written(ids)
        at = ids.index(unnamed)
        return self._written(ids[:at]) + "<image>" + self._written(ids[at + 1 :])

    def _check(self, sample: Sample) -> None:
        """Makes sure of the roles, and that the model takes what it is shown.

        Raises:
            UsageError: it does not.
        """
        for i, turn in enumerate(sample.turns):
            if turn.role not in ROLES:
                raise UsageError(
                    f"turn {i} is of `{turn.role}`, whose words are neither asked nor learned",
                    expected=", ".join(ROLES),
                    hint="rename the role, or leave the turn out",
                )
        images, videos = num_seen(sample.turns)
        if (images or videos) and not self.inputs.takes_images:
            raise no_images(self.inputs.family)
        if videos and not self.inputs.takes_videos:
            raise UsageError(
                f"{self.inputs.family} takes no videos here", hint="give some frames as images instead"
            )

    def _check_row(self, row: Marked, sample: Sample) -> None:
        """Makes sure that something and not everything is learned, and that images have their tokens.

        Raises:
            UsageError: one is not so.
        """
        self.inputs.checked(row.tokens, "the conversation")
        learned = sum(row.is_learned)
        if not learned:
            raise UsageError(
                "nothing of this conversation is learned: the template leaves no token of the answers",
                hint="give the chat template of this model: chat_template.jinja beside the weights",
            )
        if learned == len(row.tokens):
            raise UsageError(
                "everything of this conversation is learned: no token comes before the answer",
                hint="put a prompt before the answer, or a template that puts something around it",
            )
        images, videos = num_seen(sample.turns)
        for what, token, count in (
            ("images", self.inputs.image_token, images),
            ("videos", self.inputs.video_token, videos),
        ):
            found = 0 if token is None else row.tokens.count(token)
            is_placed_later = not self.inputs.prompt.has_image_tokens and not found
            if found != count and not is_placed_later:
                word = None if token is None else self.tokenizer.token(token)
                raise UsageError(
                    f"the image tokens do not match the {what}",
                    expected=f"{count}, one for each of the {what}",
                    found=f"{found} of token {token}" + (f" (`{word}`)" if word else ""),
                    hint="leave image tokens out of the texts; if there are none, tokenizer or chat template "
                    "are of another model",
                )


def of_sample(error: DovetailError, place: str) -> DataError:
    """What is wrong with a sample, with where it stands."""
    return DataError(error.message, **{"sample": place, **error.details}, hint=error.hint)


def read_labeller(
    checkpoint: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
    learn: str = "all",
) -> Labeller:
    """The labeller of a checkpoint: from its header and the files beside it, without weights.

    `settings`, `as_` and `trust` are those of `load`.

    Raises:
        UsageError: its family reads no text, or there is no tokenizer.
        CheckpointError: a file breaks its format, or no family claims the checkpoint.
        RemoteError: a server did not give what was asked for.
    """
    with opened(checkpoint, as_=as_, given=settings, trust=trust) as found:
        inputs = build(values_of(found))
        said = read_side_values(found.store)
        tokenizer = read_tokenizer(found.store, said)
    if not isinstance(inputs, LanguageInputs):
        raise UsageError(
            f"{inputs.family} is no language model: nothing of a conversation is learned by it",
            hint="`--policy CKPT` is for robots",
        )
    if tokenizer is None:
        raise UsageError(
            "there is no tokenizer beside the weights",
            checkpoint=str(checkpoint),
            hint="put tokenizer.json into the folder",
        )
    return Labeller(inputs, tokenizer, said.config, stop=stop_tokens(tokenizer, said), learn=learn)
