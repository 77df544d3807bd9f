"""Odd side files: the JSON and text beside the weights, changed in one to three places by a seed."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.5,
    -0.0,
    2**31,
    2**63,
    2**64 + 8,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "1",
    "²",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "../../etc/passwd",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"": ""},
    {"type": "x"},
    {"factor": 0},
    {"rope_type": "llama3"},
    {"rope_type": "yarn", "factor": "x"},
)
TEXTS = (
    b"",
    b"\0",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe{}",
    b"null",
    b"[]",
    b"0",
    b'"x"',
    b"{}",
    b'{"a":1,"a":2}',
    b"NaN",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize \xc2\xb2\n",
    b"{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
    b"{{ 'a' * 10**10 }}",
    b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    b"{{ messages[0].x.y }}",
    b"{% if %}",
)


def odd(data: bytes, chance: Random) -> bytes:
    """The file with something odd in it."""
    if chance.random() < 0.08:
        return chance.choice(TEXTS)
    try:
        tree = json.loads(data)
    except ValueError:
        return _edited(data, chance)
    if chance.random() < 0.08:
        return _edited(data, chance)
    for _ in range(chance.randint(1, 3)):
        _change(tree, chance)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with each of its keys; long lists have a few of theirs."""
    items: list[tuple[Any, Any]] = []
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree[:3]))
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _change(tree: Any, chance: Random) -> None:
    places = list(_places(tree))
    if not places:
        return
    holder, key = chance.choice(places)
    what = chance.random()
    if what < 0.15:
        del holder[key]
    elif what < 0.25 and isinstance(holder, dict):
        holder[chance.choice([str(one) for _, one in places])] = holder.pop(key)
    elif what < 0.35 and isinstance(holder[key], int):
        holder[key] += chance.choice((-1, 1))
    else:
        holder[key] = chance.choice(ODD)


def _edited(data: bytes, chance: Random) -> bytes:
    """Some bytes lost, doubled or changed."""
    if not data:
        return b"x"
    at = chance.randrange(len(data))
    length = chance.choice((1, 1, 2, 10, 1000))
    piece = data[at : at + length]
    new = chance.choice((b"", piece * 2, bytes([chance.randrange(256)]), b"\xff", b"{", b"}}"))
    return data[:at] + new + data[at + length :]
