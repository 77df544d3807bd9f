"""How a config file spells a size, read and written: the one is the other's inverse, which `prove` shows.

    hidden_size                      the value of a key; dots lead into sections
    mlp_ratio * embed_dim            a product of keys
    (image_size // patch_size)^2     the square of a quotient: patches of an image
    len(layer_indexes)               how many a list has; it cannot be written from its length

Where a spelling has several keys, the first is written and the others are known, as they spell other sizes.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

_GRID = re.compile(r"\((\w+) // (\w+)\)\^2")
_LENGTH = re.compile(r"len\((\w+)\)")
_KEY = re.compile(r"(?!len\()\b[A-Za-z_][\w.]*")
MAX_NUMBER = 1 << 63


def keys_of(spelling: str) -> tuple[str, ...]:
    """The keys of a spelling, each once.

    >>> keys_of("(image_size // patch_size)^2"), keys_of("merge * merge"), keys_of("len(layers)")
    (('image_size', 'patch_size'), ('merge',), ('layers',))
    """
    return tuple(dict.fromkeys(_KEY.findall(spelling)))


def is_writable(spelling: str) -> bool:
    """Whether a size can be written so."""
    return _LENGTH.fullmatch(spelling) is None


def read(section: Mapping[str, Any], spelling: str) -> Any:
    """What a section says under a spelling, None if nothing.

    >>> read({"mlp_ratio": 4, "embed_dim": 1280}, "mlp_ratio * embed_dim")
    5120
    """
    if length := _LENGTH.fullmatch(spelling):
        members = section.get(length[1])
        return len(members) if isinstance(members, list) else None
    if " * " in spelling:
        return _product([read(section, key) for key in spelling.split(" * ")])
    if grid := _GRID.fullmatch(spelling):
        size, patch = section.get(grid[1]), section.get(grid[2])
        if not isinstance(size, int) or not isinstance(patch, int) or patch < 1:
            return None
        return (size // patch) ** 2
    head, dot, rest = spelling.partition(".")
    if not dot:
        return section.get(spelling)
    inner = section.get(head)
    return read(inner, rest) if isinstance(inner, dict) else None


def written(spelling: str, size: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that give a size back, with what other keys are `known`; none where it cannot be.

    >>> written("mlp_ratio * embed_dim", 5120, {"embed_dim": 1280})
    {'mlp_ratio': 4}
    """
    if not is_writable(spelling):
        return {}
    first, *others = keys_of(spelling)
    if any(key not in known for key in others):
        return {}
    if grid := _GRID.fullmatch(spelling):
        return {first: math.isqrt(size) * known[grid[2]]}
    if " * " not in spelling:
        return {first: size}
    power = spelling.split(" * ").count(first)
    rest = size / math.prod(known[key] for key in others)
    root = rest if power == 1 else round(rest ** (1 / power))
    return {first: int(root) if root == int(root) else root}


def place(root: str, spelling: str) -> str:
    """Where a value stands, every key with its section.

    >>> place("vision_config", "len(layers)"), place("", "mlp_ratio * width")
    ('len(vision_config.layers)', 'mlp_ratio * width')
    """
    return _KEY.sub(rf"{root}.\g<0>", spelling) if root else spelling


def _product(values: list[Any]) -> Any:
    total: Any = 1
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > MAX_NUMBER:
            return None
        total *= value
    return int(total) if total == int(total) else None
