"""Opens whatever is given: a file, a folder, an index, a listing, a URL, a hub repository."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from dovetail.errors import FormatError, MissingError, UsageError, listed
from dovetail.report import Finding
from dovetail.store.folder import Folder, LocalFolder, check_name
from dovetail.store.listing import read_listing, read_weight_map
from dovetail.store.safetensors import read_safetensors
from dovetail.store.sniff import sniff
from dovetail.store.source import ByteSource
from dovetail.store.store import Entry, Shard, Store

_SHARD = re.compile(r".*?-?([0-9]{5})-of-([0-9]{5})\.[a-z]+")
_TORCH = (".bin", ".pth", ".pt", ".ckpt")
_WEIGHTS = (".safetensors", *_TORCH)
_CHUNK = re.compile(r"model_(starter|secondary[0-9]+)\.pth")
# Files that are no weights of the model although they end like weights.
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|training_args|rng_state.*|scaler|random_states.*)\.(bin|pt|pth)"
)
_NAMES_ONLY = ("shapes and dtypes: an index has names only", "values")


def open_checkpoint(path: str | os.PathLike[str]) -> Store:
    """Opens a checkpoint; reads headers only.

    `path` is a folder, a weights file, an index, a header listing, `http(s)://…` or `hf://owner/name`.

    Raises:
        UsageError: nothing is there, or a folder holds several models.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
    """
    text = os.fspath(path)
    folder: Folder
    if text.startswith("hf://"):
        from dovetail.store.hub import open_hub

        folder, name = open_hub(text)
        return open_file(folder, name, text) if name else open_folder(folder, text)
    if text.startswith(("http://", "https://")):
        from dovetail.store.remote import open_url

        folder, name = open_url(text)
        return open_file(folder, name, text) if name else open_folder(folder, text)
    if os.path.isdir(text):
        return open_folder(LocalFolder(text), text)
    if not os.path.exists(text):
        raise UsageError(
            f"there is no `{text}`",
            hint="give a folder, a weights file, an index, a listing or hf://owner/name",
        )
    return open_file(LocalFolder(os.path.dirname(text) or "."), os.path.basename(text), text)


def open_file(folder: Folder, name: str, path: str) -> Store:
    """Opens one file by what is in it, whatever it is called."""
    source = folder.open(name)
    kind = sniff(source)
    if kind == "json":
        return _open_json(folder, name, path, _parse_json(source))
    shard = _read_shard(source, kind, 0)
    return _store(path, kind, [name], [shard], folder)


def open_folder(folder: Folder, path: str) -> Store:
    """Opens the one model in a folder: index first, then a single file, then numbered shards.

    Raises:
        MissingError: there are no weights.
        UsageError: there are several models.
    """
    files = [name for name in folder.files() if not _NOT_WEIGHTS.fullmatch(name.rsplit("/", 1)[-1])]
    here = [name for name in files if "/" not in name]
    for suffix in (".safetensors.index.json", ".bin.index.json", ".index.json"):
        if indexes := [name for name in here if name.endswith(suffix)]:
            return _open_index(folder, _only(indexes, path), path, is_folder=True)
    for suffixes in ((".safetensors",), _TORCH):
        if weights := [name for name in here if name.endswith(suffixes)]:
            return _open_weights(folder, weights, path)
    if nested := [name for name in files if name.endswith(_WEIGHTS)]:
        preferred = [name for name in nested if name == "checkpoints/latest-checkpoint.pt"]
        return _open_weights(folder, preferred or nested, path)
    raise MissingError(
        "there are no weights in this folder",
        folder=path,
        found=listed(here, 6) or "nothing",
        hint="looked for *.safetensors, *.index.json, and " + ", ".join(f"*{suffix}" for suffix in _TORCH),
    )


def _open_weights(folder: Folder, weights: list[str], path: str) -> Store:
    if len(weights) == 1:
        return open_file(folder, weights[0], path)
    if all(_CHUNK.fullmatch(os.path.basename(name)) for name in weights):
        return _open_chunks(folder, weights, path)
    numbers = [_SHARD.fullmatch(name) for name in weights]
    whole = {match[2] for match in numbers if match}
    if all(numbers) and len(whole) == 1:
        return _open_shards(folder, weights, path, int(whole.pop()))
    for usual in ("model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "lit_model.pth"):
        if usual in weights:
            store = open_file(folder, usual, path)
            store.findings.append(_others([name for name in weights if name != usual], usual))
            return store
    raise UsageError(
        "this folder holds several weights files and no index says how they belong together",
        folder=path,
        found=listed(weights, 6),
        hint="give one of the files instead of the folder",
    )


def _others(names: list[str], usual: str) -> Finding:
    message = f"only {usual} is read; beside it: {listed(names, 4)}"
    return Finding(code="other-files", severity="note", message=message, tensors=())


def _only(names: list[str], path: str) -> str:
    usual = [name for name in names if name.startswith(("model.", "pytorch_model."))]
    if len(names) == 1 or len(usual) == 1:
        return (usual or names)[0]
    raise UsageError(
        "this folder holds several indexes", folder=path, found=listed(names, 6), hint="give one of them"
    )


def _open_json(folder: Folder, name: str, path: str, values: Any) -> Store:
    if isinstance(values, dict) and "weight_map" in values:
        return _open_index(folder, name, path, is_folder=False)
    shard = read_listing(values, path)
    missing = "dtypes" if any(not entry.dtype for entry in shard.entries.values()) else None
    limits = (
        "values: a listing has headers only",
        *((f"{missing}: the listing does not say them",) if missing else ()),
    )
    return Store(path, "listing", files=(name,), entries=shard.entries, limits=limits, folder=folder)


def _open_index(folder: Folder, name: str, path: str, *, is_folder: bool) -> Store:
    values = _parse_json(folder.open(name))
    weight_map = read_weight_map(values, name)
    shards = list(dict.fromkeys(weight_map.values()))
    for shard in shards:
        check_name(shard, folder.name, name)
    there = [shard for shard in shards if _exists(folder, shard)]
    if not there:
        entries = {tensor: Entry("", None, -1, -1, -1) for tensor in weight_map}
        store = Store(path, "index", files=(name,), entries=entries, limits=_NAMES_ONLY, folder=folder)
        if is_folder:
            store.findings.append(_missing_shards(shards, shards, name))
        return store
    read = [_read_shard(source, sniff(source), i) for i, source in enumerate(map(folder.open, there))]
    store = _store(path, "sharded", there, read, folder)
    store.findings += _compare_with_index(store, weight_map, values, there, name)
    if len(there) < len(shards):
        store.findings.append(_missing_shards([s for s in shards if s not in there], shards, name))
    return store


def _exists(folder: Folder, name: str) -> bool:
    try:
        folder.open(name).close()
    except MissingError:
        return False
    return True


def _compare_with_index(
    store: Store, weight_map: Mapping[str, str], values: Any, there: list[str], index: str
) -> list[Finding]:
    findings = []
    position = {name: i for i, name in enumerate(there)}
    promised = {tensor: position[file] for tensor, file in weight_map.items() if file in position}
    lost = tuple(tensor for tensor in promised if tensor not in store.entries)
    if lost:
        findings.append(
            Finding(
                code="index-mismatch",
                severity="error",
                message=f"{len(lost)} tensors that {index} names are not in their shards, first `{lost[0]}`",
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
                message=f"{len(extra)} tensors are in the shards and not in {index}, first `{extra[0]}`",
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
                message=f"{len(moved)} tensors are in another shard than {index} says, first `{moved[0]}`",
                tensors=moved,
                hint="loaders that follow the index fail on them; write a new index",
            )
        )
    total = (
        (values.get("metadata") or {}).get("total_size") if isinstance(values.get("metadata"), dict) else None
    )
    actual = sum(entry.bytes for entry in store.entries.values())
    if (
        isinstance(total, int)
        and total
        and total != actual
        and not (lost or len(there) < len(set(weight_map.values())))
    ):
        findings.append(
            Finding(
                code="index-total",
                severity="note",
                message=f"{index} says total_size {total:,}, the tensors have {actual:,} bytes",
            )
        )
    return findings


def _missing_shards(missing: list[str], shards: list[str], index: str) -> Finding:
    return Finding(
        code="missing-shard",
        severity="error",
        message=f"{len(missing)} of {len(shards)} shards of {index} are not here: {listed(missing, 3)}",
        hint="finish the download; what these shards hold was not checked"
        if len(missing) < len(shards)
        else "only names were checked: the weights are not here",
    )


def _open_shards(folder: Folder, names: list[str], path: str, total: int) -> Store:
    names = sorted(names)
    read = [_read_shard(source, sniff(source), i) for i, source in enumerate(map(folder.open, names))]
    store = _store(path, "sharded", names, read, folder)
    if len(names) != total:
        present = {int(match[1]) for name in names if (match := _SHARD.fullmatch(name))}
        lost = [f"{number:05d}" for number in range(1, total + 1) if number not in present]
        store.findings.append(
            Finding(
                code="missing-shard",
                severity="error",
                message=f"{len(lost)} of {total} shards are not here: number {listed(lost, 5)}",
                hint="finish the download; what these shards hold was not checked",
            )
        )
    store.findings.append(
        Finding(
            code="no-index",
            severity="note",
            message=f"{len(names)} shards and no index; they were read by their numbers",
        )
    )
    return store


def _open_chunks(folder: Folder, names: list[str], path: str) -> Store:
    names = sorted(names)
    read = []
    for i, name in enumerate(names):
        source = folder.open(name)
        shard = _read_shard(source, sniff(source), i)
        base = os.path.basename(name)
        entries = {f"{base}/{tensor}": entry for tensor, entry in shard.entries.items()}
        aliases = {f"{base}/{a}": f"{base}/{b}" for a, b in shard.aliases.items()}
        read.append(Shard(entries, shard.metadata, aliases, shard.findings))
    return _store(path, "chunks", names, read, folder)


def _read_shard(source: ByteSource, kind: str, file: int) -> Shard:
    if kind == "safetensors":
        return read_safetensors(source, file)
    if kind == "torch":
        from dovetail.store.torchzip import read_torch

        return read_torch(source, file)
    raise FormatError("a shard is JSON, not weights", file=source.name)


def _store(path: str, format: str, names: list[str], shards: list[Shard], folder: Folder) -> Store:
    entries: dict[str, Entry] = {}
    metadata: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    findings: list[Finding] = []
    for shard, name in zip(shards, names, strict=True):
        twice = entries.keys() & shard.entries.keys()
        if twice:
            findings.append(
                Finding(
                    code="duplicate-name",
                    severity="error",
                    message=f"{len(twice)} tensors of {name} are in another file too, first `{min(twice)}`",
                    tensors=tuple(sorted(twice)),
                    hint="the folder mixes two checkpoints; keep the files of one",
                )
            )
        entries.update(shard.entries)
        metadata.update(shard.metadata)
        aliases.update(shard.aliases)
        findings += shard.findings
    return Store(
        path,
        format,
        files=names,
        entries=entries,
        metadata=metadata,
        aliases=aliases,
        findings=findings,
        folder=folder,
    )


def _parse_json(source: ByteSource) -> Any:
    raw = source.read_at(0, min(source.size, 1 << 28))
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _bad_json(source, raw, error) from error


def _bad_json(source: ByteSource, raw: bytes, error: Exception) -> FormatError:
    if raw.startswith(b"version https://git-lfs"):
        sniff(source)
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
