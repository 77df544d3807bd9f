"""A yaml list of manifests, each with how much of it is taken, as LLaVA-NeXT writes it.

datasets:
  - json_path: data/a.json
    sampling_strategy: first:25%
  - json_path: data/b.jsonl            # all of it
"""

import os
from typing import NamedTuple

from dovetail.errors import DataError, listed, suggestion
from dovetail.explain.documents import yaml_as_json

_KEYS = ("json_path", "sampling_strategy")
_MAX_SIZE = 1 << 20
_HINT = "write a list under `datasets:`, each with json_path and, if you like, sampling_strategy"


class Entry(NamedTuple):
    """A manifest in a list, and which of its records are taken."""

    path: str
    strategy: str


def entries(path: str) -> list[Entry]:
    """What a list names. Paths are relative to its folder; where nothing is there, to the current one.

    Raises:
        DataError: it is no such list.
    """
    import json

    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_SIZE + 1)
        if len(text) > _MAX_SIZE:
            raise ValueError(f"it is longer than {_MAX_SIZE:,} characters")
        values = json.loads(yaml_as_json(text))
    except OSError as error:
        raise DataError(f"the list `{path}` cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"the list cannot be read: {error}", file=path, hint=_HINT) from None
    given = values.get("datasets") if isinstance(values, dict) else None
    if not isinstance(given, list) or not given:
        found = listed(values, 5) if isinstance(values, dict) else type(values).__name__
        raise DataError("the list has no `datasets`", file=path, found=found, hint=_HINT)
    return [_entry(one, i, path) for i, one in enumerate(given)]


def _entry(given: object, number: int, path: str) -> Entry:
    if not isinstance(given, dict) or not isinstance(given.get("json_path"), str):
        raise DataError("an entry has no json_path", file=path, entry=number, hint=_HINT)
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        hint = suggestion(str(unknown[0]), _KEYS, f"an entry has {listed(_KEYS)}")
        raise DataError(f"an entry has `{unknown[0]}`", file=path, entry=number, hint=hint)
    strategy = given.get("sampling_strategy", "all")
    if not isinstance(strategy, str):
        raise DataError("a sampling strategy is no word", file=path, entry=number, found=strategy)
    place = given["json_path"]
    if place.lower().endswith((".yaml", ".yml")):
        raise DataError(
            "a list names another list", file=path, entry=number, found=place, hint="write its entries here"
        )
    beside = os.path.join(os.path.dirname(path), place)
    is_here = not os.path.exists(beside) and os.path.exists(place)
    return Entry(place if is_here else beside, strategy)
