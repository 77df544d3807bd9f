"""JSON without what it leaves open: no name twice, no NaN."""

import json
from typing import Any

from dovetail.errors import DataError


def parse(text: bytes) -> Any:
    """The value of a text.

    Raises:
        DataError: it is not UTF-8 or no JSON, names something twice, or is nested too deep.
    """
    try:
        return _DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        why = f"it is not UTF-8: {error.reason}"
    except json.JSONDecodeError as error:
        raise DataError(
            f"a record cannot be read: it is no JSON: {error.msg}",
            begins=repr(text[:40].decode(errors="replace")),
        ) from None
    except RecursionError:
        why = "it is nested too deep"
    except ValueError as error:  # also a number of more digits than Python reads
        why = str(error)
    raise DataError(f"a record cannot be read: {why}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names `{twice[:60]}` twice")
    return values


def _no_number(word: str) -> None:
    raise ValueError(f"`{word}` is no number in JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
