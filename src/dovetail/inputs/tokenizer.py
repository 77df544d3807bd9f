"""Text to tokens and back, with the tokenizer and the chat template that a folder has.

`tokenizer.json` is read by the `tokenizers` library alone, in milliseconds; other tokenizer files need
`transformers`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tokenizers import Tokenizer as Fast
from tokenizers.decoders import DecodeStream

from dovetail.errors import CheckpointError, UsageError
from dovetail.inputs.charsmap import check_charsmaps
from dovetail.inputs.chat_template import ChatTemplate
from dovetail.inputs.tokenizer_rules import bounded, guarded
from dovetail.store.folder import Folder, LocalFolder

_FILE = "tokenizer.json"
_OTHERS = ("tokenizer.model", "vocab.json", "spiece.model")
_LIMIT = 256 << 20


class Tokenizer:
    """The tokenizer of a checkpoint. `specials` are tokens by name (`bos_token`, `eos_token`)."""

    def __init__(self, fast: Fast, specials: Mapping[str, str], template: str | None) -> None:
        self._fast = fast
        self.specials = specials
        self.template = None if template is None else ChatTemplate(template, specials)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._fast.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str, *, with_specials: bool = False) -> list[int]:
        """The token ids of a text; `with_specials` adds those that the tokenizer puts around it.

        Raises:
            UsageError: it is no text.
            CheckpointError: the tokenizer breaks over it.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError("the text holds halves of characters", hint="give it in UTF-8")
        with guarded(_FILE):
            return list(self._fast.encode(text, add_special_tokens=with_specials).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out.

        Raises:
            CheckpointError: the tokenizer breaks over them.
        """
        with guarded(_FILE):
            return str(self._fast.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> "TextStream":
        """The text of tokens that come one after the other."""
        return TextStream(self, self._fast)

    def id(self, token: str) -> int | None:
        """The id of a token, None if there is no such token."""
        found = self._fast.token_to_id(token)
        return None if found is None else int(found)

    def token(self, id: int) -> str | None:
        """The text of a token, None if there is no such id."""
        found = self._fast.id_to_token(id) if 0 <= id < 1 << 32 else None
        return None if found is None else str(found)

    @cached_property
    def added(self) -> frozenset[int]:
        """The tokens that were added to the vocabulary; no piece of a text is one by chance."""
        return frozenset(self._fast.get_added_tokens_decoder())

    def written(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out.

        Raises:
            CheckpointError: the tokenizer breaks over them.
        """
        with guarded(_FILE):
            return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that are put before and behind a text."""
        return self._around

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        ids = self.encode("", with_specials=True)
        with guarded(_FILE):
            marks = self._fast.encode("x", add_special_tokens=True).special_tokens_mask
        before = marks.index(0) if 0 in marks else len(ids)
        return ids[:before], ids[before:]

    def special(self, name: str) -> int | None:
        """The id of a special token by name (`bos_token`)."""
        token = self.specials.get(name)
        return None if token is None else self.id(token)


class TextStream:
    """Tokens to text, as far as the text is settled: a character of several tokens comes at once."""

    def __init__(self, tokenizer: Tokenizer, fast: Fast) -> None:
        self._tokenizer, self._fast = tokenizer, fast
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._text = ""

    def push(self, token: int) -> str:
        """The text that is settled by one more token; may be empty."""
        self._tokens.append(token)
        with guarded(_FILE):
            piece = self._stream.step(self._fast, token) or ""
        self._text += piece
        return piece

    def rest(self) -> str:
        """What is left when no more tokens come, such as half a character."""
        whole = self._tokenizer.decode(self._tokens)
        return whole[len(self._text) :] if whole.startswith(self._text) else ""


@runtime_checkable
class SideFiles(Protocol):
    """A checkpoint, or a folder without one, with small files in it."""

    @property
    def folder(self) -> Folder | None:
        """The folder."""

    def side_file(self, name: str, limit: int = 64 << 20) -> bytes | None:
        """A file, None if there is none."""


class _Bare(NamedTuple):
    """A folder without weights."""

    folder: LocalFolder

    def side_file(self, name: str, limit: int = _LIMIT) -> bytes | None:
        """A file, None if there is none."""
        return self.folder.read(name, limit) if name in self.folder.files() else None


class SideValues(NamedTuple):
    """What JSON files beside the weights say."""

    tokenizer: Mapping[str, Any]
    generation: Mapping[str, Any]
    config: Mapping[str, Any]


def read_side_values(store: SideFiles) -> SideValues:
    """The configs of tokenizer, generation and model; empty where a file is not there."""
    names = ("tokenizer_config.json", "generation_config.json", "config.json")
    return SideValues(*(read_json(store, name) for name in names))


def read_tokenizer(store: SideFiles, values: SideValues) -> Tokenizer | None:
    """The tokenizer beside the weights, None if there is none.

    Raises:
        CheckpointError: it cannot be read.
        UsageError: it is in files that need transformers, which is not installed.
    """
    raw = store.side_file(_FILE, _LIMIT)
    if raw is not None:
        check_charsmaps(raw, _FILE)
        with guarded(_FILE, "read"):
            fast = bounded(Fast.from_buffer(raw), _FILE)
    else:
        found = _through_transformers(store)
        if found is None:
            return None
        fast = found
    said = {**read_json(store, "special_tokens_map.json"), **values.tokenizer}
    specials = {
        name: text
        for name, token in said.items()
        if name.endswith("_token") and (text := _text(token)) is not None
    }
    return Tokenizer(fast, specials, _template(store, values.tokenizer))


def tokenizer_at(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer in a folder, or of a `tokenizer.json`.

    Raises:
        UsageError: there is none.
        CheckpointError: it cannot be read.
    """
    place = os.fspath(path)
    folder = _Bare(LocalFolder(place if os.path.isdir(place) else os.path.dirname(place) or "."))
    found = read_tokenizer(folder, read_side_values(folder)) if os.path.exists(place) else None
    if found is None:
        raise UsageError(f"there is no tokenizer at `{place}`", hint="give the folder of a tokenizer.json")
    return found


def _through_transformers(store: SideFiles) -> Fast | None:
    """A tokenizer of other files."""
    there = [name for name in _OTHERS if store.side_file(name, _LIMIT) is not None]
    if store.folder is None or not there:
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UsageError(
            f"the tokenizer is in {there[0]}, without a tokenizer.json: transformers must read it",
            hint="pip install transformers sentencepiece",
        ) from None
    try:
        found = AutoTokenizer.from_pretrained(store.folder.name, use_fast=True).backend_tokenizer
    except Exception as error:  # noqa: BLE001 - of whatever type
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"transformers cannot read the tokenizer in {there[0]}: {why}",
            folder=store.folder.name,
            hint="put a tokenizer.json beside it, as the tokenizer's save_pretrained writes it",
        ) from None
    return bounded(found, there[0])


def _template(store: SideFiles, config: Mapping[str, Any]) -> str | None:
    """The chat template: an entry of a config or a file of its own; of several, the default.

    Of several places the first counts, as in transformers: the processor's, then the tokenizer's.
    """
    places = (
        lambda: read_json(store, "processor_config.json"),
        lambda: read_json(store, "chat_template.json"),
        lambda: {"chat_template": _text_file(store, "chat_template.jinja")},
        lambda: config,
    )
    for place in places:
        template = place().get("chat_template")
        if isinstance(template, list):
            named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
            template = named[0].get("template") if named else None
        if isinstance(template, str):
            return template
    return None


def _text_file(store: SideFiles, name: str) -> str | None:
    """A text beside the weights, None if there is none.

    Raises:
        CheckpointError: it is no text.
    """
    raw = store.side_file(name)
    try:
        return None if raw is None else raw.decode()
    except ValueError:
        raise CheckpointError(
            "the file is no text in UTF-8", file=name, hint="fetch the file again"
        ) from None


def read_json(store: SideFiles, name: str) -> Mapping[str, Any]:
    """A JSON object beside the weights; empty if there is no such file.

    Raises:
        CheckpointError: the file holds something else.
    """
    raw = store.side_file(name)
    if raw is None:
        return {}
    with suppress(ValueError, RecursionError):
        values = json.loads(raw)
        if isinstance(values, dict):
            return values
    raise CheckpointError("the file is no JSON object", file=name, hint="fetch the file again")


def _text(token: Any) -> str | None:
    """A special token, which may be a string or an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
