"""Sizes and values as people type them."""

import json
import re
from typing import Any

from dovetail.errors import UsageError

_PYTHON = {"True": True, "False": False}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `500MB`, `1000`.

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"([0-9]+)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"`{text}` is no size", hint="for example 5GB or 500MB")
    return int(match[1]) * _SIZES[match[2]]


def assignment(text: str, *, example: str = "text.layers=2") -> tuple[str, Any]:
    """Name and value of `text.layers=2`, `norm_first=true`, `vision=siglip`.

    Raises:
        UsageError: it has no name, no `=` or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"`--set {text}` is not NAME=VALUE", hint=f"for example --set {example}")
    if value in _PYTHON:
        return name, _PYTHON[value]
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
