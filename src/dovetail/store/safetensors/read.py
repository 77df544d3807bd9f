"""The safetensors container, every rule of its format checked.

A file is 8 bytes (little-endian length N), N bytes of JSON, then the tensors without holes. The rules
are those of https://github.com/huggingface/safetensors (README "Format", `tensor.rs`): N is at most
100 MB; the JSON begins with `{`, may be padded with spaces, has no duplicate names; `__metadata__` maps
strings to strings; each tensor's range has the length that its dtype and shape ask for; the ranges
follow each other without overlap or hole and end where the file ends.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, Never

from dovetail.dtypes import BITS
from dovetail.errors import FormatError
from dovetail.store.source import ByteSource
from dovetail.store.store import Entry, Shard

MAX_HEADER = 100_000_000
_SHORT_JSON = 4 << 20
_MAX_SIZE = 1 << 48
# torch has 64 at most; the product of a million sizes would take hours.
_MAX_AXES = 64


def read_safetensors(source: ByteSource, file: int = 0) -> Shard:
    """The tensors of one file; moves the header only.

    Raises:
        FormatError: the file breaks a rule of the format; the message says which.
    """
    header, body = read_header(source)
    metadata = header.pop("__metadata__", {})
    _check_metadata(metadata, source)
    entries = _entries(header, body, file, source)
    return Shard(
        entries=entries,
        metadata={"safetensors": metadata} if metadata else {},
        aliases=_aliases(metadata, entries),
    )


def read_header(source: ByteSource) -> tuple[dict[str, Any], int]:
    """The parsed JSON and the offset at which the tensors begin.

    Raises:
        FormatError: there is no well-formed header.
    """
    head = source.exactly(0, 8, "8-byte header length")
    length = int.from_bytes(head, "little")
    if length > MAX_HEADER:
        raise _broken(
            source, f"the header says it is {length:,} bytes long", expected=f"at most {MAX_HEADER:,}"
        )
    if length < 2:
        raise _broken(source, f"the header says it is {length} bytes long", expected="at least 2 (`{}`)")
    raw = source.exactly(8, length, "header")
    if raw[:1] != b"{":
        raise _broken(source, f"the header begins with {raw[:1]!r}", expected="`{`")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _broken(source, f"the header is not UTF-8 (byte {error.start})") from error
    check_density(raw, source)
    return _parse(text, raw, source), 8 + length


def check_density(raw: bytes, source: ByteSource) -> None:
    """Refuses long JSON of nearly nothing but brackets and commas: each takes 50 times its size in memory.

    Real headers and indexes have long names: a tensor is three brackets and some commas in 80 bytes.

    Raises:
        FormatError: it is such JSON.
    """
    if len(raw) <= _SHORT_JSON:
        return
    num_containers, num_commas = raw.count(b"[") + raw.count(b"{"), raw.count(b",")
    if num_containers > len(raw) // 16 or num_commas > len(raw) // 6:
        found = f"{num_containers:,} brackets and {num_commas:,} commas in {len(raw):,} bytes"
        raise FormatError(
            "the JSON is no list of tensors: it holds hardly any names", file=source.name, found=found
        )


def _parse(text: str, raw: bytes, source: ByteSource) -> dict[str, Any]:
    try:
        header: Any = json.loads(text, parse_float=_refuse_number, parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise _broken(source, f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _broken(source, "the header is not a JSON object")
    if not _is_plain(raw, header):
        _find_duplicate(text, source)
    return header


def _is_plain(raw: bytes, header: dict[str, Any]) -> bool:
    """Whether no name can be there twice; json keeps the last of two equal ones.

    A tensor has five strings (its name, three keys, the dtype) and metadata two an entry, so a number of
    quotes that differs shows a duplicate, or something else worth a closer look, in one pass of C.
    """
    metadata = header.get("__metadata__")
    num_strings = 5 * (len(header) - (metadata is not None))
    if metadata is not None:
        num_strings += 1 + 2 * len(metadata) if isinstance(metadata, dict) else 0
    return raw.count(b'"') == 2 * num_strings and b"\\" not in raw


def _refuse_number(digits: str) -> Never:
    raise ValueError(f"the number {digits[:20]} is not a whole one")


def _find_duplicate(text: str, source: ByteSource) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            raise _broken(source, f"the header names `{twice(pairs)}` twice")
        return seen

    json.loads(text, object_pairs_hook=unique)


def twice(pairs: Sequence[tuple[str, Any]]) -> str:
    """The first name that comes again."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return name


def _check_metadata(metadata: Any, source: ByteSource) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(source, "`__metadata__` is not a map of strings to strings")


def _entries(header: dict[str, Any], body: int, file: int, source: ByteSource) -> dict[str, Entry]:
    """The checked tensors. This loop is what a large file costs, so it does little per tensor."""
    entries: dict[str, Entry] = {}
    kinds: dict[tuple[Any, ...], tuple[tuple[int, ...], int]] = {}
    position, in_order, new = 0, True, tuple.__new__
    for name, info in header.items():
        try:
            dtype, sizes, (start, end) = info["dtype"], info["shape"], info["data_offsets"]
            kind = (dtype, *sizes)
            known = kinds.get(kind)
            if known is None:
                known = _checked_shape(sizes), math.prod(sizes) * BITS[dtype]
                if 0 not in sizes and 1 not in sizes:  # to Python, JSON's true is a 1
                    kinds[kind] = known
            shape, bits = known
            is_exact = (end - start) * 8 == bits and (start > 1 or _is_range(start, end))
        except (KeyError, TypeError, ValueError, OverflowError):
            is_exact = False
        if not is_exact:
            raise _bad_entry(name, info, source)
        in_order = in_order and start == position
        position = end
        entries[name] = new(Entry, (dtype, shape, file, body + start, body + end, None))
    if not in_order:
        _check_ranges(entries, body, source)
    _check_end(entries, body, source)
    return entries


def _is_range(start: Any, end: Any) -> bool:
    return type(start) is int and type(end) is int and start >= 0


def _checked_shape(sizes: Any) -> tuple[int, ...]:
    if not is_shape(sizes):
        raise ValueError(sizes)
    return tuple(sizes)


def is_shape(shape: Any) -> bool:
    """Whether a JSON value is a list of sizes that a tensor may have."""
    is_list = type(shape) is list and len(shape) <= _MAX_AXES
    return is_list and all(type(size) is int and 0 <= size < _MAX_SIZE for size in shape)


def _bad_entry(name: str, info: Any, source: ByteSource) -> FormatError:
    """What exactly is wrong with one tensor's description."""
    if not isinstance(info, dict):
        return _broken(source, f"tensor `{name}` is described by {shown(info)}", expected="an object")
    if missing := [key for key in ("dtype", "shape", "data_offsets") if key not in info]:
        return _broken(source, f"tensor `{name}` has no `{missing[0]}`")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return _broken(
            source, f"tensor `{name}` has the dtype {shown(dtype)}", expected="one of " + ", ".join(BITS)
        )
    if not is_shape(shape):
        expected = f"a list of sizes between 0 and {_MAX_SIZE - 1:,}"
        if isinstance(shape, list) and len(shape) > _MAX_AXES:
            expected = f"at most {_MAX_AXES} sizes"
        return _broken(source, f"tensor `{name}` has the shape {shown(shape)}", expected=expected)
    is_pair = (
        isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)
    )
    if not is_pair or not 0 <= offsets[0] <= offsets[1]:
        return _broken(
            source, f"tensor `{name}` has the data_offsets {shown(offsets)}", expected="[start, end]"
        )
    needed = math.prod(shape) * BITS[dtype] / 8
    return _broken(
        source,
        f"tensor `{name}` has {offsets[1] - offsets[0]:,} bytes",
        expected=f"{needed:,.0f} for {dtype} {shown(shape)}"
        if needed < 2**63
        else "a size that fits 64 bits",
    )


def _check_ranges(entries: dict[str, Entry], body: int, source: ByteSource) -> None:
    """The ranges must follow each other without overlap or hole."""
    position, before = body, ""
    for start, end, name in sorted((entry.start, entry.end, name) for name, entry in entries.items()):
        if start < position:
            details = {"expected": f"a start at {position - body:,}", "found": f"{start - body:,}"}
            raise _broken(source, f"tensor `{name}` overlaps `{before}`", **details)
        if start > position:
            raise _broken(source, f"there is a hole of {start - position:,} bytes before tensor `{name}`")
        position, before = end, name


def _check_end(entries: dict[str, Entry], body: int, source: ByteSource) -> None:
    """The last tensor must end where the file ends."""
    position = max([entry.end for entry in entries.values()], default=body)
    if position > source.size:
        cut = next(name for name, entry in entries.items() if entry.end > source.size)
        raise _broken(
            source,
            f"the file ends inside tensor `{cut}`",
            expected=f"{position:,} bytes",
            found=f"{source.size:,}, {position - source.size:,} too few",
            hint="the download or copy was cut off; fetch the file again",
        )
    if position < source.size:
        raise _broken(source, f"{source.size - position:,} bytes follow the last tensor")


def _aliases(metadata: dict[str, str], entries: dict[str, Entry]) -> dict[str, str]:
    """Names that `safetensors.torch.save_model` left out because they share another's storage.

    It notes them in the metadata as {left out: kept}.
    """
    return {
        name: kept
        for name, kept in metadata.items()
        if kept in entries and name not in entries and "." in name
    }


def _broken(source: ByteSource, message: str, **details: Any) -> FormatError:
    return FormatError(f"not a valid safetensors file: {message}", file=source.name, **details)


def shown(value: object) -> str:
    """A JSON value on one line, cut where it is long or deep."""
    if isinstance(value, list | dict) and (len(value) > 8 or _is_deep(value)):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value):,}"
    text = json.dumps(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_deep(value: list[Any] | dict[str, Any]) -> bool:
    """Whether there are lists in lists in it; what is that deep may be too deep to write out."""
    inner = value.values() if isinstance(value, dict) else value
    return any(
        isinstance(one, list | dict) and (len(one) > 8 or any(isinstance(two, list | dict) for two in one))
        for one in inner
    )
