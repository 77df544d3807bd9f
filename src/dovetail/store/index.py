"""An index and the shards it names: what it promises against what is there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter, eq
from typing import Any

from dovetail.errors import FormatError
from dovetail.report import Finding, counted
from dovetail.store.folder import whole
from dovetail.store.safetensors.read import MAX_HEADER, check_density, twice
from dovetail.store.source import ByteSource
from dovetail.store.store import Store, total_bytes


def parse_json(source: ByteSource) -> Any:
    """The JSON of an index or a listing.

    Raises:
        FormatError: it is not JSON (the message says what it may be instead), names something twice, or is
            longer than the header of a safetensors file may be.
    """
    raw = whole(source, MAX_HEADER)
    check_density(raw, source)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise FormatError(
                f"the JSON names `{twice(pairs)}` twice",
                file=source.name,
                hint="one of the two is wrong; write the file again, or fetch it from its publisher",
            )
        return values

    try:
        values = json.loads(raw)
        return values if _is_plain(raw, values) else json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _bad_json(source, raw, error) from error


def _is_plain(raw: bytes, values: Any) -> bool:
    """Whether nothing of an index can be named twice: the file has as many quotes as what was read."""
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or b"\\" in raw:
        return False
    rest = json.dumps(
        {key: value for key, value in values.items() if key != "weight_map"}, ensure_ascii=False
    )
    return raw.count(b'"') == 4 * len(weight_map) + 2 + rest.count('"')


def _bad_json(source: ByteSource, raw: bytes, error: Exception) -> FormatError:
    markers = (b"\n<<<<<<<", b"\n=======", b"\n>>>>>>>")
    if any(marker in raw for marker in markers):
        return FormatError(
            "the JSON holds an unresolved Git merge conflict",
            file=source.name,
            hint="take one side of the conflict and save it",
        )
    return FormatError(
        f"not valid JSON: {error}", file=source.name, hint="fetch the file again, or repair it by hand"
    )


def compare_with_index(
    store: Store, weight_map: Mapping[str, str], there: Sequence[str], *, values: Any, index: str
) -> list[Finding]:
    """What the index says of the shards that are there, and what they really hold."""
    files = map(there.__getitem__, map(attrgetter("file"), store.entries.values()))
    is_same = len(weight_map) == len(store.entries)
    if is_same and all(map(eq, files, map(weight_map.get, store.entries))):
        return list(_wrong_total(store, values, index))
    findings = []
    position = {name: i for i, name in enumerate(there)}
    promised = {tensor: position[file] for tensor, file in weight_map.items() if file in position}
    lost = tuple(tensor for tensor in promised if tensor not in store.entries)
    if lost:
        findings.append(
            Finding(
                code="index-mismatch",
                severity="error",
                message=f"{counted(len(lost), 'tensor')} named in {index} and not in its shards, "
                f"first `{lost[0]}`",
                tensors=lost,
                hint="the index belongs to other shards; fetch index and shards of one revision",
            )
        )
    extra = tuple(tensor for tensor in store.entries if tensor not in weight_map)
    if extra:
        findings.append(
            Finding(
                code="index-mismatch",
                severity="error",
                message=f"{counted(len(extra), 'tensor')} in the shards and not in {index}, "
                f"first `{extra[0]}`",
                tensors=extra,
                hint="loaders that follow the index never see them",
            )
        )
    moved = tuple(t for t, file in promised.items() if t in store.entries and store.entries[t].file != file)
    if moved:
        findings.append(
            Finding(
                code="index-mismatch",
                severity="error",
                message=f"{counted(len(moved), 'tensor')} in another shard than {index} says, "
                f"first `{moved[0]}`",
                tensors=moved,
                hint="loaders that follow the index fail on them; write a new index",
            )
        )
    if not lost and len(there) == len(set(weight_map.values())):
        findings += _wrong_total(store, values, index)
    return findings


def _wrong_total(store: Store, values: Any, index: str) -> Iterator[Finding]:
    metadata = values.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    actual = total_bytes(store.kinds())
    if isinstance(total, int) and total and total != actual:
        yield Finding(
            code="index-total",
            severity="note",
            message=f"{index} says total_size {total:,}, the tensors have {actual:,} bytes",
        )
