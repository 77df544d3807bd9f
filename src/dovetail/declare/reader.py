"""A reader: a program that opens checkpoints, in the versions that it was held against.

A layout names its readers, each with the versions that read it:

    layout("hf", {...}, readers=("transformers>=4.45,<6", "vllm>=0.32"))

Versions are compared number by number, as far as the shorter one goes: 4.57.6 is within `<5`.
"""

import re
from typing import NamedTuple

from dovetail.errors import UsageError

Version = tuple[int, ...]
_ASKED = re.compile(r"([a-z][a-z0-9_-]*)(?:==?(\d+(?:\.\d+)*)\S*)?")
_BOUND = re.compile(r"(>=|<)(\d+(?:\.\d+)*)")


class Reader(NamedTuple):
    """A program. `versions` are those that open what is written for it in the tests, the oldest first;
    a project without releases has none. `formats` are the kinds of files that it opens."""

    name: str
    title: str
    versions: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("safetensors",)


class Asked(NamedTuple):
    """What `--for` says: a name, and a version where one is said."""

    name: str
    version: Version | None


def parse_asked(text: str) -> Asked:
    """The name and version of `transformers==4.57`.

    >>> parse_asked("transformers==4.57"), parse_asked("openpi")
    (Asked(name='transformers', version=(4, 57)), Asked(name='openpi', version=None))

    Raises:
        UsageError: it is neither a name nor a name with one version.
    """
    found = _ASKED.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"`{text}` names no reader", hint="write NAME or NAME==VERSION: transformers==4.57")
    return Asked(found[1], parse_version(found[2]) if found[2] else None)


def parse_version(text: str) -> Version:
    """The numbers of a version.

    >>> parse_version("4.57.6")
    (4, 57, 6)
    """
    return tuple(map(int, text.split(".")))


def name_of(reading: str) -> str:
    """The name in what a layout says of a reader.

    >>> name_of("transformers>=4.45,<6")
    'transformers'
    """
    return re.split(r"[<>=]", reading)[0]


def is_read_by(reading: str, asked: Asked) -> bool:
    """Whether a reader that a layout names is the one that is asked for.

    >>> [is_read_by("lerobot>=0.4,<1", parse_asked(f"lerobot=={one}")) for one in ("0.3.3", "0.4", "0.4.4")]
    [False, True, True]
    """
    if name_of(reading) != asked.name:
        return False
    if asked.version is None:
        return True
    bounds = [(sign, parse_version(number)) for sign, number in _BOUND.findall(reading)]
    return all(asked.version >= low if sign == ">=" else asked.version < low for sign, low in bounds)
