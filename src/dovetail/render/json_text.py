"""Values as JSON that a terminal can be shown."""

import json
import re
from typing import Any

_NOT_ASCII = re.compile(r"[^\n\x20-\x7e]")


def json_text(value: Any) -> str:
    r"""Strict JSON, in the order of the keys; controls, bidi marks and surrogates are escaped.

    >>> print(json_text({"a": "\u202e\x9b1m"}), end="")
    {
      "a": "\u202e\u009b1m"
    }
    """
    return _NOT_ASCII.sub(_escaped, json.dumps(value, indent=2, ensure_ascii=False)) + "\n"


def _escaped(match: re.Match[str]) -> str:
    one = match[0]
    if one.isprintable():
        return one
    return "\\u007f" if one == "\x7f" else json.dumps(one)[1:-1]
