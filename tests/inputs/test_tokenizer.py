"""Tokenizers that would end the process, or never end, are refused; what breaks inside is one error."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dovetail.errors import CheckpointError, DovetailError, UsageError
from dovetail.inputs.tokenizer import tokenizer_at
from run.beside import CORPUS, LLAMA, byte_level, sentence_pieces

Values = dict[str, Any]


def value_of(tokenizer: Any) -> Values:
    values: Values = json.loads(tokenizer.backend_tokenizer.to_str())
    return values


@pytest.fixture(scope="module")
def plain() -> Values:
    return value_of(byte_level(LLAMA))


def written(folder: Path, values: Values) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def repeated(kind: str, name: str, rule: Values, count: int) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        values[kind] = {"type": "Sequence", name: [rule] * count}

    return change


TWICE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BETWEEN = {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "x"}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REFUSED: dict[str, tuple[Callable[[Values], None], str]] = {
    "a normalizer that doubles": (
        repeated("normalizer", "normalizers", TWICE, 40),
        "normalizer may make a text 1.1e[+]12 times as long",
    ),
    "a normalizer that puts letters between": (
        repeated("normalizer", "normalizers", BETWEEN, 2000),
        "normalizer may make a text 1.0e[+]300 times as long",
    ),
    "a decoder that doubles": (
        repeated("decoder", "decoders", TWICE, 40),
        "decoder may make a text 1.1e[+]12 times as long",
    ),
    "bytes of bytes": (
        repeated("pre_tokenizer", "pretokenizers", BYTES, 20),
        "pre_tokenizer may make a text 1.1e[+]12 times as long",
    ),
    "many special tokens": (
        lambda values: values.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 1000,
                "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1] * 1000, "tokens": ["<s>"] * 1000}},
            }
        ),
        "puts 1,000,000 special tokens around a text",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_much_of_little_is_refused(case: str, plain: Values, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    values = json.loads(json.dumps(plain))
    change(values)
    with pytest.raises(CheckpointError, match=message):
        tokenizer_at(written(tmp_path, values))


def test_nothing_is_padded_or_cut_off(plain: Values, tmp_path: Path) -> None:
    """Which would end the process, or leave out the end of a prompt; transformers switches both off too."""
    expected = tokenizer_at(written(tmp_path, plain)).encode(CORPUS[0])
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    for more in ({"padding": padding}, {"truncation": truncation}):
        assert tokenizer_at(written(tmp_path, {**plain, **more})).encode(CORPUS[0]) == expected
    assert len(expected) > 3


BROKEN: dict[str, Callable[[Values], None]] = {
    "a charsmap without nodes": lambda values: values.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(4)).decode()}
    ),
    "chunks of nothing": lambda values: values.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "a regex without end": lambda values: values.update(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "(a|a)+$"},
            "behavior": "Isolated",
            "invert": False,
        }
    ),
    "a template of a token that is not there": lambda values: values.update(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_panic_is_an_error(case: str, plain: Values, tmp_path: Path) -> None:
    values = json.loads(json.dumps(plain))
    BROKEN[case](values)
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot be (read|used): \S"):
        tokenizer_at(written(tmp_path, values)).encode("a" * 50 + "! hi", with_specials=True)


TREE = 600  # bytes: all ones, so that base64 of it has a `/`
CHARSMAPS = {
    # size that it announces, bytes that are there: what is wrong
    "no tree at all": ((1 << 31) - 1, 0, ["0 bytes", "a tree of 2,147,483,647 bytes"]),
    "a byte too few": (TREE + 1, TREE, ["600 bytes", "a tree of 601 bytes"]),
    "half a number": (None, 3, ["it has 3 bytes"]),
}


@pytest.mark.parametrize("case", CHARSMAPS)
def test_a_charsmap_that_announces_more_than_it_holds_is_refused(
    case: str, plain: Values, tmp_path: Path
) -> None:
    """It would ask for memory by that number, and be the end of the process where there is none."""
    announced, there, found = CHARSMAPS[case]
    table = (b"" if announced is None else announced.to_bytes(4, "little")) + b"\xff" * there
    text = base64.b64encode(table).decode()
    rule = {"type": "Precompiled", "precompiled_charsmap": text}
    folder = written(tmp_path, {**plain, "normalizer": {"type": "Sequence", "normalizers": [rule]}})
    whole = (folder / "tokenizer.json").read_text()
    spellings = {
        "as it is": whole,
        "with escapes": whole.replace("precompiled_", r"pre\u0063ompiled\u005F").replace("//", r"\/\/"),
        "with spaces": whole.replace('charsmap": "', 'charsmap" :\n "'),
    }
    for spelling in spellings.values():
        (folder / "tokenizer.json").write_text(spelling)
        with pytest.raises(CheckpointError, match="`precompiled_charsmap` is broken") as caught:
            tokenizer_at(folder)
        assert all(words in str(caught.value) for words in found)


def test_a_charsmap_that_holds_its_tree_is_read(plain: Values, tmp_path: Path) -> None:
    table = (2048).to_bytes(4, "little") + bytes(2048) + b"a\0"
    rule = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    expected = tokenizer_at(written(tmp_path, plain)).encode(CORPUS[0])
    assert tokenizer_at(written(tmp_path, {**plain, "normalizer": rule})).encode(CORPUS[0]) == expected


def test_half_a_character_is_no_text(plain: Values, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="halves of characters"):
        tokenizer_at(written(tmp_path, plain)).encode("a\udc80")


def unigram() -> Values:
    """As T5's and ALBERT's are, with all that they do to a text."""
    one = Tokenizer(models.Unigram())
    rules = [
        normalizers.Replace("``", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(" {2,}"), " "),
    ]
    one.normalizer = normalizers.Sequence(rules)
    one.pre_tokenizer = pre_tokenizers.Metaspace()
    one.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    one.train_from_iterator(CORPUS, trainer)
    one.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    values: Values = json.loads(one.to_str())
    return values


ODD: list[Any] = [0, -1, 2**31, 2**32 - 1, 2**64, 10**12, 1e308, "", "a", "\0", [], {}, None, True, "x" * 999]
ODD += [{"Regex": "(?=("}, {"Fixed": 10**12}, {"type": "ByteLevel"}, {"type": "FixedLength", "length": 0}]


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something may be changed; of long lists only the first."""
    items = list(values.items()) if isinstance(values, dict) else list(enumerate(values))
    found = []
    for key, one in items[:12]:
        found.append((*path, key))
        if isinstance(one, dict | list):
            found += places(one, (*path, key))
    return found


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    """Whatever stands in it: a file is used, or there is one error; no panic comes through."""
    draw = random.Random(12)
    whole = [value_of(byte_level(LLAMA)), value_of(sentence_pieces(LLAMA, "<s>")), unigram()]
    read = 0
    for _ in range(250):
        values = json.loads(json.dumps(draw.choice(whole)))
        path = draw.choice(places(values))
        inner = values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = draw.choice(ODD)
        try:
            tokenizer = tokenizer_at(written(tmp_path, values))
            for text in (CORPUS[0], "", "aaaa aaaa!", CORPUS[2]):
                tokenizer.decode(tokenizer.encode(text, with_specials=True))
            stream = tokenizer.stream()
            read += bool("".join(map(stream.push, tokenizer.encode(CORPUS[0]))) + stream.rest())
        except DovetailError:
            continue
    assert 10 < read < 250
