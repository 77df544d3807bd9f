"""What the rules of a tokenizer.json may do, bounded before they are used, and what they do all the same.

The library that reads the file is written in Rust: what goes wrong in it is a panic, which is no `Exception`,
or, where memory is asked for that nobody has, the end of the process. Reading ends it by a broken
`precompiled_charsmap`, which `charsmap.py` refuses before. What ends it when a text comes: padding to a
length of 10^12, and rules that double a text, one after the other.
Padding and truncation are no part of a model and are switched off, as transformers does; rules that make
much of little are refused.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer as Fast

from dovetail.errors import CheckpointError, DovetailError

MAX_GROWTH = 4096  # published ones stay below 40
MAX_AROUND = 1000  # special tokens around a text; published ones have 3
_LISTS = ("normalizers", "pretokenizers", "decoders", "processors")
# A character becomes at most so many, each time that the rule is applied.
_GROWTH = {"ByteLevel": 4, "Precompiled": 18, "ByteFallback": 3}


@contextmanager
def guarded(file: str, doing: str = "used") -> Iterator[None]:
    """Around what the library does: whatever goes wrong in it is an error of the file.

    Raises:
        CheckpointError: something did.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, DovetailError):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception
        raise CheckpointError(
            f"the tokenizer cannot be {doing}: {str(error)[:500] or type(error).__name__}",
            file=file,
            hint=f"fetch {file} again, or give token ids: --tokens 1,2,3",
        ) from None


def bounded(fast: Fast, file: str) -> Fast:
    """A tokenizer that pads and truncates nothing and makes no more of a text than can be.

    Raises:
        CheckpointError: its rules would.
    """
    fast.no_padding()
    fast.no_truncation()
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        times = _growth(_rules(getattr(fast, name)))
        if times > MAX_GROWTH:
            raise CheckpointError(
                f"the tokenizer's {name} may make a text {times:.1e} times as long",
                file=file,
                expected=f"at most {MAX_GROWTH:,} times",
                hint="no tokenizer needs that; do not trust this one",
            )
    if (more := _around(_rules(fast.post_processor))) > MAX_AROUND:
        raise CheckpointError(
            f"the tokenizer puts {more:,} special tokens around a text",
            file=file,
            expected=f"at most {MAX_AROUND:,}",
            hint="no tokenizer needs that; do not trust this one",
        )
    return fast


def _rules(component: Any) -> Mapping[str, Any]:
    """A component of a tokenizer as its file has it, in the form that the library gives it."""
    rules: Mapping[str, Any] = {} if component is None else json.loads(component.__getstate__())
    return rules


def _growth(rules: Mapping[str, Any]) -> float:
    """How many times as long a text may become."""
    times = 1.0
    for name in _LISTS:
        for one in rules.get(name) or ():
            times = min(times * _growth(one), 1e300)
    kind = str(rules.get("type"))
    if kind != "Replace":
        return times * _GROWTH.get(kind, 1)
    content, pattern = str(rules.get("content", "")), rules.get("pattern") or {}
    text = pattern.get("String")
    if text:
        return max(1.0, len(content) / len(text))
    return len(content) + 1.0  # what matches nothing matches between all characters


def _around(rules: Mapping[str, Any]) -> int:
    """How many tokens are put around a text."""
    inner = sum(_around(one) for name in _LISTS for one in rules.get(name) or ())
    known = {name: len(one.get("ids", ())) for name, one in (rules.get("special_tokens") or {}).items()}
    named = [piece["SpecialToken"]["id"] for piece in rules.get("single") or () if "SpecialToken" in piece]
    return inner + sum(known.get(name, 0) for name in named)
