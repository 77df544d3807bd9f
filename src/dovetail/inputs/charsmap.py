"""The table of characters inside a tokenizer.json (`precompiled_charsmap`), checked before the file is read.

The library that reads it asks for memory by a number that stands in the table, and memory that nobody has
ends the process: the one way found, in 5,100 mutated files, in which reading ends it. The table is base64:
how many bytes the search tree has (32 bits, little-endian), the tree, 4 bytes a node, then texts.

Source: huggingface/spm_precompiled@0.1.4 `src/lib.rs:parse`.
"""

import re
from base64 import b64decode

from dovetail.errors import CheckpointError

_KEY = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]*)"')
_PLAIN = re.compile(rb"\\u00([2-7][0-9a-fA-F])|\\(/)")
_NODE = 4


def check_charsmaps(raw: bytes, file: str) -> None:
    """Refuses a table that does not hold the tree that it announces.

    Raises:
        CheckpointError: there is one.
    """
    text = raw if b"\\u00" not in raw and b"\\/" not in raw else _PLAIN.sub(_character, raw)
    for found in _KEY.finditer(text):
        try:
            table = b64decode(found[1], validate=True)
        except ValueError:
            raise _broken(file, "it is no base64") from None
        if len(table) < _NODE:
            raise _broken(file, f"it has {len(table)} bytes")
        announced, there = int.from_bytes(table[:_NODE], "little"), len(table) - _NODE
        if announced > there:
            raise _broken(file, f"{there:,} bytes", f"a tree of {announced:,} bytes, as it says")


def _character(escape: re.Match[bytes]) -> bytes:
    """What an escape of JSON stands for."""
    return escape[2] or bytes([int(escape[1], 16)])


def _broken(file: str, found: str, expected: str | None = None) -> CheckpointError:
    return CheckpointError(
        "the tokenizer's `precompiled_charsmap` is broken",
        file=file,
        expected=expected,
        found=found,
        hint=f"fetch {file} again, or give token ids: --tokens 1,2,3",
    )
