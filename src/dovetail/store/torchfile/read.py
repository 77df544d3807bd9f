"""The zip files of torch.save (torch 1.6 and later: `.pth`, `.pt`, `.bin`, `.ckpt`), read without torch.

    NAME/data.pkl             the object, with a persistent id where a storage belongs
    NAME/data/KEY             the bytes of each storage
    NAME/byteorder            `little` or `big`; older files have none and are little
    NAME/.storage_alignment   what storages are aligned to, 64 where it is missing

The pickle is read by a machine that runs no code (`unpickle.py`), the zip's directory by
`ziparchive.py`. A tensor is a view of a storage: what lies in rows is given as the bytes it covers, any
other view as the bytes from its first to its last element and its strides. Two names with the same view
are aliases; both are entries.
"""

import math
from collections import defaultdict
from typing import Any

from dovetail.dtypes import BITS
from dovetail.errors import listed
from dovetail.report import Finding, counted
from dovetail.store.source import ByteSource
from dovetail.store.store import Entry, Shard
from dovetail.store.torchfile.pickle.flatten import flatten
from dovetail.store.torchfile.pickle.pickled import Storage, TensorRecord, shown
from dovetail.store.torchfile.pickle.unpickle import MAX_PICKLE, Unpickled, unpickle
from dovetail.store.torchfile.zip import Archive, Member, broken, data_starts, read_archive, read_members

_PICKLE, _ORDER, _ALIGNMENT = "data.pkl", "byteorder", ".storage_alignment"
_MAX_ALIGNMENT = 1 << 20
# What opened torch files before 1.6 (torch/serialization.py:MAGIC_NUMBER), as a pickle writes it.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_NO_PLACE = -1


def read_torch(source: ByteSource, file: int = 0) -> Shard:
    """The tensors of one file; moves the zip's directory and the pickle only.

    `metadata["torch"]` holds the other values of the object, as `Flat.values` describes them.

    Raises:
        FormatError: the file breaks a rule of its format; the message says which.
        UnsafeError: loading it would run code, or an entry leads out of the archive.
    """
    _check_kind(source)
    archive = read_archive(source)
    alignment, pickle = _read_small(archive)
    unpickled = unpickle(pickle, file=source.name)
    flat = flatten(unpickled.value, file=source.name, size=len(pickle))
    entries = _entries(archive, flat.tensors, alignment, file)
    aliases = _aliases(entries)
    findings = (
        *_opaque(unpickled),
        *_unnamed(unpickled, flat.tensors),
        *_shared(flat.tensors, entries, aliases),
        *_unused(archive, flat.tensors),
        *_cut(flat.is_cut),
    )
    metadata = {"torch": flat.values} if flat.values else {}
    return Shard(entries, metadata, aliases, findings)


def _check_kind(source: ByteSource) -> None:
    """Refuses what is no zip file, by what it is instead."""
    head = source.read_at(0, min(512, source.size))
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return
    if _LEGACY_MAGIC in head[:32]:
        from shlex import quote

        way_out = (
            "from sys import argv; import torch; torch.save(torch.load(argv[1], weights_only=True), argv[2])"
        )
        hint = f'rewrite it: python -c "{way_out}" {quote(source.name)} NEW.pth'
        raise broken(source, "it has the format of torch before 1.6", hint=hint)
    if head[257:262] == b"ustar":
        hint = "torch.load would run code from it (weights_only=False); ask its publisher for safetensors"
        raise broken(source, "it has the tar format of torch before 0.1.10", hint=hint)
    if head[:1] == b"\x80" and head[1:2] <= b"\5":
        hint = "save it again with torch.save"
        raise broken(source, "it is a bare pickle, not a file of torch.save", hint=hint)
    raise broken(source, "it is no zip file", expected="b'PK\\x03\\x04'", found=f"{head[:16]!r}")


def _read_small(archive: Archive) -> tuple[int, bytes]:
    """The alignment and the pickle, after a look at what kind of archive it is."""
    source, members = archive.source, archive.members
    if not members:
        raise broken(source, "it is an empty zip file", hint="the file was not written completely")
    if _PICKLE not in members:
        raise broken(source, f"it has no `{archive.folder}/{_PICKLE}`", found=listed(members, limit=5))
    for name, limit in ((_PICKLE, MAX_PICKLE), (_ORDER, 16), (_ALIGNMENT, 16)):
        if name in members and members[name].size > limit:
            found = f"{members[name].size:,}"
            raise broken(
                source,
                f"entry `{members[name].name}` is too long",
                expected=f"at most {limit:,} bytes",
                found=found,
            )
    contents = read_members(archive, (_PICKLE, _ORDER, _ALIGNMENT))
    order, alignment = contents.get(_ORDER, b"little"), contents.get(_ALIGNMENT, b"64")
    if order != b"little":
        hint = "load it with torch on any machine and save it again: torch writes the order of the machine"
        raise broken(source, f"its byte order is {order.decode('latin-1')!r}", expected="'little'", hint=hint)
    if not alignment.isdigit() or not 0 < int(alignment) <= _MAX_ALIGNMENT:
        raise broken(source, f"its storage alignment is {alignment.decode('latin-1')!r}", expected="a number")
    return int(alignment), contents[_PICKLE]


def _entries(
    archive: Archive, tensors: dict[str, TensorRecord], alignment: int, file: int
) -> dict[str, Entry]:
    """Each tensor with its place in the file."""
    members = _storages(archive, tensors)
    used = sorted(
        {id(member): member for member in members.values()}.values(), key=lambda member: member.header
    )
    starts = data_starts(archive, used, alignment)
    entries: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        strides = None if _is_in_rows(tensor.shape, tensor.strides) else tensor.strides
        if tensor.storage is None:
            entries[name] = Entry(tensor.dtype, tensor.shape, file, _NO_PLACE, _NO_PLACE, strides)
            continue
        width = BITS[tensor.dtype] // 8
        start = starts[members[tensor.storage.key].name] + tensor.offset * width
        extent = 0
        if math.prod(tensor.shape):
            extent = 1 + sum(
                (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
            )
        entries[name] = Entry(tensor.dtype, tensor.shape, file, start, start + extent * width, strides)
    return entries


def _storages(archive: Archive, tensors: dict[str, TensorRecord]) -> dict[str, Member]:
    """The entry of each storage that tensors need, checked against the length that they claim."""
    members: dict[str, Member] = {}
    checked: set[Storage] = set()
    for name, tensor in tensors.items():
        storage = tensor.storage
        if storage is None or storage in checked:
            continue
        member = archive.members.get(f"data/{storage.key}")
        if member is None:
            message = f"tensor {shown(name)} needs the storage {shown(storage.key)}, which is missing"
            raise broken(archive.source, message, hint="the file was not written completely; fetch it again")
        # An untyped storage may be a few bytes longer than its whole elements.
        if not 0 <= member.size - storage.bytes < BITS[storage.dtype] // 8:
            expected = f"{storage.bytes:,} for {storage.elements:,} elements of {storage.dtype}"
            message = f"entry `{member.name}` has {member.size:,} bytes"
            raise broken(archive.source, message, tensor=shown(name), expected=expected)
        checked.add(storage)
        members[storage.key] = member
    return members


def _is_in_rows(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a view is row-major without gaps; the stride of an axis of one element does not matter."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in shape
        expected *= size
    return True


def _aliases(entries: dict[str, Entry]) -> dict[str, str]:
    """Names whose view is the same as that of an earlier name, and that name."""
    first: dict[Entry, str] = {}
    aliases: dict[str, str] = {}
    for name, entry in entries.items():
        if entry.start < entry.end and (kept := first.setdefault(entry, name)) != name:
            aliases[name] = kept
    return aliases


def _opaque(unpickled: Unpickled) -> list[Finding]:
    """What the pickle names and dovetail does not know."""
    if not unpickled.opaque:
        return []
    message = f"names in the pickle that dovetail does not know: {listed(unpickled.opaque)}"
    hint = "nothing of them was imported or run; the plain fields of their objects are kept as metadata"
    return [Finding(code="opaque-object", severity="note", message=message, hint=hint)]


def _unnamed(unpickled: Unpickled, tensors: dict[str, TensorRecord]) -> list[Finding]:
    """Tensors that the pickle rebuilds and no name leads to, e.g. attributes of a tensor."""
    named = {id(tensor) for tensor in tensors.values()}
    lost = {id(tensor): tensor for tensor in unpickled.tensors if id(tensor) not in named}
    if not lost:
        return []
    shapes = listed((f"{tensor.dtype} {list(tensor.shape)}" for tensor in lost.values()), limit=5)
    message = f"{counted(len(lost), 'tensor')} in the pickle without a name, left out: {shapes}"
    return [Finding(code="unnamed-tensor", severity="warning", message=message)]


def _shared(
    tensors: dict[str, TensorRecord], entries: dict[str, Entry], aliases: dict[str, str]
) -> list[Finding]:
    """Tensors that are different views of the same bytes."""
    views: defaultdict[Any, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.storage is not None and name not in aliases and entries[name].start < entries[name].end:
            views[tensor.storage.key].append(name)
    sharing: list[str] = []
    for names in views.values():
        names.sort(key=lambda name: entries[name].start)
        reach, before = _NO_PLACE, ""
        for name in names:
            if entries[name].start < reach:
                sharing += [before, name]
            if entries[name].end > reach:
                reach, before = entries[name].end, name
    if not sharing:
        return []
    shared = tuple(dict.fromkeys(sharing))
    message = f"{len(shared)} tensors are different views of the same bytes"
    return [Finding(code="shared-storage", severity="note", message=message, tensors=shared)]


def _unused(archive: Archive, tensors: dict[str, TensorRecord]) -> list[Finding]:
    """Storages that no tensor needs."""
    used = {f"data/{tensor.storage.key}" for tensor in tensors.values() if tensor.storage is not None}
    left = [
        member for name, member in archive.members.items() if name.startswith("data/") and name not in used
    ]
    size = sum(member.size for member in left)
    if not size:
        return []
    names = listed(member.name for member in left)
    message = f"{counted(len(left), 'storage')} of no tensor, {size:,} bytes: {names}"
    return [Finding(code="unused-storage", severity="note", message=message)]


def _cut(is_cut: bool) -> list[Finding]:
    message = "the file holds more values beside its tensors than are kept as metadata"
    return [Finding(code="metadata-cut", severity="note", message=message)] if is_cut else []
