"""Opens whatever is given: a file, a folder, an index, a listing, a URL, a hub repository."""

import os
import re
from time import perf_counter
from typing import Any

from dovetail.errors import FormatError, MissingError, UsageError, listed, nearest
from dovetail.report import Finding, counted
from dovetail.store.folder import Folder, LocalFolder, Within, check_name
from dovetail.store.foreign import folder_refusal, is_foreign_weight
from dovetail.store.hub_place import meant
from dovetail.store.index import compare_with_index, parse_json
from dovetail.store.listing import read_listing, read_weight_map
from dovetail.store.safetensors.read import read_safetensors
from dovetail.store.sniff import PointerError, sniff
from dovetail.store.source import ByteSource
from dovetail.store.store import AbsentShards, Entry, Shard, Store

_SHARD = re.compile(r".*?-?([0-9]{5})-of-([0-9]{5})\.[a-z]+")
_TORCH = (".bin", ".pth", ".pt", ".ckpt")
_WEIGHTS = (".safetensors", *_TORCH)
_NODE = re.compile(r"node([0-9]+)/")
_CHUNK = re.compile(r"model_(starter|secondary[0-9]+)\.pth")
# Files that are no weights of the model although they end like weights.
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|training_args|rng_state.*|scaler|random_states.*)\.(bin|pt|pth)"
)
_REMOTE = ("hf://", "http://", "https://")
_NAMES_ONLY = ("shapes and dtypes (an index has names only)", "values")


def open_checkpoint(path: str | os.PathLike[str]) -> Store:
    """Opens a checkpoint; reads headers only.

    `path` is a folder, a weights file, an index, a header listing, `http(s)://…` or `hf://owner/name`.

    Raises:
        UsageError: nothing is there, or a folder holds several models.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
    """
    begin = perf_counter()
    store = _open(os.fspath(path))
    store.seconds = perf_counter() - begin
    return store


def _open(text: str) -> Store:
    text = meant(text)
    if text.startswith(_REMOTE):
        folder, name = located(text)
        shown = shown_path(text)
        return open_file(folder, name, shown) if name else open_folder(folder, shown)
    if os.path.isdir(text):
        text = _chunks_folder(text)
        return _with_outer_folder(open_folder(LocalFolder(text), text), os.path.abspath(text))
    if not os.path.exists(text):
        raise UsageError(f"there is no `{shown_path(text)}`", hint=_what_to_give(text))
    store = open_file(LocalFolder(os.path.dirname(text) or "."), os.path.basename(text), text)
    return _with_outer_folder(store, os.path.dirname(os.path.abspath(text)))


def shown_path(path: str | os.PathLike[str]) -> str:
    """What a checkpoint is called wherever it is named: an address without the secrets that it may hold.

    >>> shown_path("https://me:secret@host/model.safetensors?signature=123")
    'https://host/model.safetensors'
    """
    text = os.fspath(path)
    if "://" not in text or text.startswith("hf://"):
        return text
    from dovetail.store.remote.request import shown_url

    return shown_url(text)


def located(text: str) -> tuple[Folder, str]:
    """The folder that a path or an address leads to, and the name of the file in it, "" for the folder.

    Raises:
        CheckpointError: a repository has no such path.
        RemoteError: the hub cannot be reached or refuses.
        UsageError: an address is not one.
    """
    text = meant(text)
    if text.startswith("hf://"):
        from dovetail.store.remote.hub import open_hub

        return open_hub(text)
    if text.startswith(_REMOTE):
        from dovetail.store.remote.http import open_url

        return open_url(text)
    if os.path.isdir(text):
        return LocalFolder(text), ""
    return LocalFolder(os.path.dirname(text) or "."), os.path.basename(text)


def _what_to_give(text: str) -> str:
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) and not os.path.exists(os.path.dirname(text)):
        return f"a repository of the hub is written hf://{text}"
    if os.path.islink(text):
        return "it is a link that leads nowhere; give what it should lead to"
    folder, name = os.path.split(text.rstrip("/"))
    known = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = nearest(name, known)
    said = f"did you mean `{os.path.join(folder, near)}`? " if near else ""
    return f"{said}give a folder, a weights file, an index, a listing or hf://owner/name"


def _with_outer_folder(store: Store, folder: str) -> Store:
    """Prismatic keeps weights in `RUN/checkpoints`, LitGPT chunks in `CKPT/chunks/2nodes`."""
    outer, name = os.path.split(folder)
    if name == "checkpoints":
        store.beside += (LocalFolder(outer),)
    elif os.path.basename(outer) == "chunks":
        store.beside += (LocalFolder(os.path.dirname(outer)),)
    return store


def _chunks_folder(path: str) -> str:
    """The folder itself or, if it has LitGPT chunks and no weights of its own, the one set of them.

    Raises:
        UsageError: there are chunks for several numbers of nodes.
    """
    chunks = os.path.join(path, "chunks")
    if not os.path.isdir(chunks) or any(name.endswith(_WEIGHTS) for name in os.listdir(path)):
        return path
    found = sorted(entry.name for entry in os.scandir(chunks) if entry.is_dir())
    if len(found) != 1:
        raise UsageError(
            f"`{chunks}` holds {len(found)} sets of chunks: {', '.join(found) or 'none'}",
            hint=f"give one of them: {os.path.join(chunks, found[0]) if found else chunks}",
        )
    return os.path.join(chunks, found[0])


def open_file(folder: Folder, name: str, path: str) -> Store:
    """Opens one file by what is in it, whatever it is called."""
    source = folder.open(name)
    try:
        kind = sniff(source)
        if kind == "json":
            return _open_json(folder, name, path, parse_json(source))
        return _store(path, kind, [name], [_read_shard(source, kind, 0)], folder)
    finally:
        source.close()


def open_folder(folder: Folder, path: str) -> Store:
    """Opens the one model in a folder: index first, then a single file, then numbered shards.

    Raises:
        FormatError: the weights are in a format that dovetail does not read; the message says which.
        MissingError: there are no weights.
        UsageError: there are several models.
    """
    names = folder.files()
    files = [
        name
        for name in names
        if not _NOT_WEIGHTS.fullmatch(name.rsplit("/", 1)[-1]) and not is_foreign_weight(name)
    ]
    here = [name for name in files if "/" not in name]
    for suffix in (".safetensors.index.json", ".bin.index.json", ".index.json"):
        if indexes := [name for name in here if name.endswith(suffix)]:
            index = _only(indexes, path)
            return _beside(_open_index(folder, index, path), here, index)
    for suffixes in ((".safetensors",), _TORCH):
        if weights := [name for name in here if name.endswith(suffixes)]:
            return _beside(_open_weights(folder, weights, path), here)
    if nested := [name for name in files if name.endswith(_WEIGHTS)]:
        if all(_NODE.match(name) for name in nested):
            return _open_nodes(folder, nested, path)
        preferred = [name for name in nested if name == "checkpoints/latest-checkpoint.pt"]
        return _open_weights(folder, preferred or nested, path)
    if refusal := folder_refusal(names, path):
        raise refusal
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
            return open_file(folder, usual, path)
    raise UsageError(
        "this folder holds several weights files and no index says how they belong together",
        folder=path,
        found=listed(weights, 6),
        hint="give one of the files instead of the folder",
    )


def _beside(store: Store, here: list[str], index: str = "") -> Store:
    """The same with the weights files of the folder that are not read: shards that nothing names matter."""
    if store.format == "index":
        return store
    known = (*store.files, *(store.absent.tensors if store.absent else ()))
    others = [name for name in here if name.endswith(_WEIGHTS) and name not in known]
    ending = os.path.splitext(store.files[0])[1]
    shards = [name for name in others if _SHARD.fullmatch(name) and name.endswith(ending)]
    if len(store.files) == 1:
        only, them = f"{store.files[0]} is", "it"
    else:
        only, them = f"the files that {index} names are" if index else "the numbered shards are", "them"
    message = f"only {only} read; beside {them}: {listed(others, 4)}"
    if shards:
        why = "they may be left of another download, or the index lacks them; give one by name to look at it"
        store.findings.append(Finding(code="other-files", severity="warning", message=message, hint=why))
    elif others:
        store.findings.append(Finding(code="other-files", severity="note", message=message))
    return store


def _only(names: list[str], path: str) -> str:
    usual = [name for name in names if name.startswith(("model.", "pytorch_model."))]
    if len(names) == 1 or len(usual) == 1:
        return (usual or names)[0]
    raise UsageError(
        "this folder holds several indexes", folder=path, found=listed(names, 6), hint="give one of them"
    )


def _open_json(folder: Folder, name: str, path: str, values: Any) -> Store:
    if isinstance(values, dict) and "weight_map" in values:
        return _open_index(folder, name, path)
    shard = read_listing(values, path)
    missing = "dtypes" if any(not entry.dtype for entry in shard.entries.values()) else None
    limits = (
        "values (a listing has headers only)",
        *((f"{missing} (the listing does not say them)",) if missing else ()),
    )
    return Store(path, "listing", files=(name,), entries=shard.entries, limits=limits, folder=folder)


def _open_index(folder: Folder, name: str, path: str) -> Store:
    values = _read_json(folder, name)
    weight_map = read_weight_map(values, name)
    shards = list(dict.fromkeys(weight_map.values()))
    for shard in shards:
        check_name(shard, folder.name, name)
    found: dict[str, Shard] = {}
    pointers = []
    for shard in shards:
        try:
            found[shard] = _read(folder, shard, len(found))
        except MissingError:
            continue
        except PointerError:
            pointers.append(shard)
    there = list(found)
    if there:
        store = _store(path, "sharded", there, list(found.values()), folder)
        store.findings += compare_with_index(store, weight_map, there, values=values, index=name)
    else:
        entries = {tensor: Entry("", None, -1, -1, -1) for tensor in weight_map}
        store = Store(path, "index", files=(name,), entries=entries, limits=_NAMES_ONLY, folder=folder)
    absent: dict[str, list[str]] = {shard: [] for shard in shards if shard not in found}
    for tensor, shard in weight_map.items() if absent else ():
        if shard in absent:
            absent[shard].append(tensor)
    if absent:
        tensors = {shard: tuple(names) for shard, names in absent.items()}
        store.absent = AbsentShards(name, len(shards), tensors, tuple(pointers))
    return store


def _read_json(folder: Folder, name: str) -> Any:
    source = folder.open(name)
    try:
        if sniff(source) != "json":
            raise FormatError("the index is weights, not JSON", file=source.name)
        return parse_json(source)
    finally:
        source.close()


def _open_shards(folder: Folder, names: list[str], path: str, total: int) -> Store:
    names = sorted(names)
    store = _store(path, "sharded", names, [_read(folder, name, i) for i, name in enumerate(names)], folder)
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


def _open_nodes(folder: Folder, names: list[str], path: str) -> Store:
    """The folders that `dovetail split` writes, one for each node, as one model."""
    names = sorted(names, key=lambda name: (int(_NODE.match(name)[1]), name))  # type: ignore[index]
    shards = [_read(folder, name, i) for i, name in enumerate(names)]
    store = _store(path, "nodes", names, shards, folder)
    store.beside += (Within(folder, names[0].split("/", maxsplit=1)[0]),)
    return store


def _open_chunks(folder: Folder, names: list[str], path: str) -> Store:
    names = sorted(names)
    read = []
    for i, name in enumerate(names):
        shard = _read(folder, name, i)
        base = os.path.basename(name)
        entries = {f"{base}/{tensor}": entry for tensor, entry in shard.entries.items()}
        aliases = {f"{base}/{a}": f"{base}/{b}" for a, b in shard.aliases.items()}
        read.append(Shard(entries, shard.metadata, aliases, shard.findings))
    return _store(path, "chunks", names, read, folder)


def _read(folder: Folder, name: str, file: int) -> Shard:
    source = folder.open(name)
    try:
        return _read_shard(source, sniff(source), file)
    finally:
        source.close()


def _read_shard(source: ByteSource, kind: str, file: int) -> Shard:
    if kind == "safetensors":
        return read_safetensors(source, file)
    if kind == "torch":
        from dovetail.store.torchfile.read import read_torch

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
                    message=f"{counted(len(twice), 'tensor')} of {name} in another file too, "
                    f"first `{min(twice)}`",
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
