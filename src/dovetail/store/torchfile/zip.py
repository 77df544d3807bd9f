"""The entries of a zip file and where their bytes are, for zip files as torch.save writes them.

A zip file is entries one after the other, each a local header (30 bytes, name, extra field), its data and
perhaps a descriptor; then the central directory that lists them; then a record that says where that is
(PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16, zip64 included). Entries must be stored as they
are: torch compresses nothing, so that tensors can be mapped into memory, and a file of a few kilobytes
cannot turn out to be one of many gigabytes.

Where the data of an entry begins is written in its local header alone. Reading each costs nothing in a
local file, and 700 requests in a remote one. There are two ways to compute it instead. From behind: the
data ends where the next entry begins, less the descriptor. From the front: torch pads the extra field so
that the data begins at a multiple of 64 (pytorch `caffe2/serialize/inline_container.cc:getPadding`). Of a
remote file only those headers are read on which the two disagree, and the first and the last to be sure;
of a file that torch wrote that is two.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from dovetail.errors import FormatError, UnsafeError
from dovetail.store.foreign import of_zip
from dovetail.store.source import ByteSource, LocalSource
from dovetail.store.torchfile.pickle.pickled import shown

_END, _END_SIGN = struct.Struct("<4s4H2IH"), b"PK\5\6"
_END64, _END64_SIGN = struct.Struct("<4sQ2H2I4Q"), b"PK\6\6"
_LOCATOR, _LOCATOR_SIGN = struct.Struct("<4sIQI"), b"PK\6\7"
_CENTRAL, _CENTRAL_SIGN = struct.Struct("<4s6H3I5H2I"), b"PK\1\2"
_LOCAL, _LOCAL_SIGN = struct.Struct("<4s5H3I2H"), b"PK\3\4"
_FULL16, _FULL32 = 0xFFFF, 0xFFFF_FFFF
# What stands for a count, a length and a place that only the 64-bit record has room for.
_FULL = (_FULL16, _FULL32, _FULL32)
_ENCRYPTED, _DESCRIPTOR = 1 << 0, 1 << 3
_ZIP64_FIELD = 1

_MAX_DIRECTORY = 100_000_000
_MAX_COMMENT = 0xFFFF
_MAX_EXTRA = 0xFFFF
_MAX_NAME = 4096
# Pieces of a remote file that are no further apart than this are read in one request.
_GAP, _MAX_JOINED = 64 << 10, 8 << 20


class Member(NamedTuple):
    """One entry; `header` is where its local header begins, `limit` where whatever follows it does."""

    name: str
    header: int
    size: int
    crc: int
    has_descriptor: bool
    limit: int = -1

    def start(self, alignment: int) -> int | None:
        """Where the data begins, None if the two ways to compute that disagree."""
        is_big, is_far = self.size >= _FULL32, self.header >= _FULL32
        descriptor = (24 if is_big or is_far else 16) if self.has_descriptor else 0
        behind = self.limit - descriptor - self.size
        front = self.header + _LOCAL.size + len(self.name.encode()) + 4
        front += 4 * (is_big or is_far) + 16 * is_big + 8 * is_far
        return behind if behind == -(-front // alignment) * alignment else None


class Archive(NamedTuple):
    """The entries by their name below the one folder that they all lie in."""

    source: ByteSource
    folder: str
    members: dict[str, Member]


def broken(source: ByteSource, message: str, **details: Any) -> FormatError:
    """The refusal of a file that is not as torch.save writes it."""
    return FormatError(f"not a valid torch file: {message}", file=source.name, **details)


def read_archive(source: ByteSource) -> Archive:
    """The entries of a zip file; moves the central directory only.

    Raises:
        FormatError: the file breaks a rule of the format, or is no zip file as torch writes them.
        UnsafeError: an entry has a name that leads out of the archive.
    """
    length = min(source.size, _MAX_COMMENT + _END.size)
    first = source.size - length
    tail = source.exactly(first, length, "zip directory")
    count, start, end = _find_directory(source, tail)
    is_held = start >= first
    raw = (
        tail[start - first : end - first] if is_held else source.exactly(start, end - start, "zip directory")
    )
    if foreign := of_zip(raw, count):
        raise foreign.refusal(source.name)
    members = _parse_directory(source, raw, count)
    return _in_one_folder(source, _with_limits(source, members, start))


def _find_directory(source: ByteSource, tail: bytes) -> tuple[int, int, int]:
    """The number of entries, and where the directory begins and ends."""
    at = tail.rfind(_END_SIGN)
    while at >= 0 and at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little") != len(tail):
        at = tail.rfind(_END_SIGN, 0, at)
    if at < 0:
        hint = "the download or copy was cut off; fetch the file again"
        raise broken(source, "it ends before its zip directory", found=f"{source.size:,} bytes", hint=hint)
    _, disk, first_disk, here, count, length, start, _ = _END.unpack_from(tail, at)
    end = source.size - len(tail) + at
    if tail[max(0, at - _LOCATOR.size) : at].startswith(_LOCATOR_SIGN):
        short = count, length, start
        end, (here, count, length, start) = _read_end64(source, tail, at, end)
        if any(
            narrow not in (wide, full)
            for narrow, wide, full in zip(short, (count, length, start), _FULL, strict=True)
        ):
            raise broken(source, "its two zip directories disagree")
    if disk or first_disk or here != count:
        raise broken(source, "it is one part of a zip file in several parts")
    _check_place(source, start, end - length)
    if length > _MAX_DIRECTORY:
        expected = f"at most {_MAX_DIRECTORY:,}"
        raise broken(source, f"its directory is {length:,} bytes long", expected=expected)
    return count, start, end


def _read_end64(source: ByteSource, tail: bytes, at: int, end: int) -> tuple[int, tuple[int, int, int, int]]:
    """Where the 64-bit record begins, and its counts, length and start."""
    at, end = at - _LOCATOR.size - _END64.size, end - _LOCATOR.size - _END64.size
    if at < 0 or not tail.startswith(_END64_SIGN, at):
        raise broken(source, "its 64-bit zip record is missing")
    _check_place(source, _LOCATOR.unpack_from(tail, at + _END64.size)[2], end)
    here, count, length, start = _END64.unpack_from(tail, at)[6:]
    return end, (here, count, length, start)


def _check_place(source: ByteSource, stated: int, actual: int) -> None:
    """What a record says about a place must be where that is."""
    if stated < actual:
        raise broken(source, f"{actual - stated:,} bytes stand before the zip file that it holds")
    if stated > actual:
        expected, found = f"at {stated:,}", f"at {actual:,}"
        raise broken(source, "its zip directory is elsewhere", expected=expected, found=found)


def _parse_directory(source: ByteSource, raw: bytes, count: int) -> list[Member]:
    """The entries in the order of the directory; their limits are not known yet."""
    members: list[Member] = []
    at = 0
    for _ in range(count):
        if not raw.startswith(_CENTRAL_SIGN, at) or len(raw) < at + _CENTRAL.size:
            raise broken(source, f"its directory lists {len(members):,} entries", expected=f"{count:,}")
        _, _, _, flags, method, _, _, crc, packed, size, *rest = _CENTRAL.unpack_from(raw, at)
        name_length, extra_length, comment_length, _, _, _, header = rest
        at += _CENTRAL.size
        name = _checked_name(source, raw[at : at + name_length])
        extra = raw[at + name_length : at + name_length + extra_length]
        size, packed, header = _widen(source, name, extra, (size, packed, header))
        at += name_length + extra_length + comment_length
        if flags & _ENCRYPTED:
            raise broken(source, f"entry `{name}` is encrypted")
        if method or packed != size:
            hint = "torch stores entries as they are; unpack it and save it again with torch.save"
            raise broken(source, f"entry `{name}` is compressed (method {method})", hint=hint)
        members.append(Member(name, header, size, crc, bool(flags & _DESCRIPTOR)))
    if at != len(raw):
        raise broken(source, f"its directory goes on after {count:,} entries")
    return members


def _widen(source: ByteSource, name: str, extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Size, packed size and place, each from the zip64 field where 32 bits are not enough."""
    if max(values) < _FULL32:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        wide = [
            int.from_bytes(extra[place : place + 8], "little") for place in range(at + 4, at + 4 + length, 8)
        ]
        if kind == _ZIP64_FIELD and length == 8 * values.count(_FULL32) and at + 4 + length <= len(extra):
            return tuple(wide.pop(0) if value == _FULL32 else value for value in values)
        at += 4 + length
    raise broken(source, f"entry `{name}` has no 64-bit size")


def _checked_name(source: ByteSource, raw: bytes) -> str:
    """The name of an entry, if it is one inside the archive."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise broken(source, f"an entry has the name {raw[:60]!r}", expected="UTF-8") from None
    if not name.isprintable() or not name or len(name) > _MAX_NAME:
        raise broken(source, f"an entry has the name {shown(name)}")
    if name.startswith("/") or "\\" in name or name[1:2] == ":" or ".." in name.split("/"):
        hint = "whatever unpacks it would write outside its folder; do not trust this file"
        raise UnsafeError(f"entry `{name}` leads out of the archive", file=source.name, hint=hint)
    return name


def _with_limits(source: ByteSource, members: list[Member], directory: int) -> list[Member]:
    """The entries in the order of the file, each with where the next begins; none may overlap."""
    if not members:
        return []
    ordered = sorted(members, key=lambda member: member.header)
    limits = [member.header for member in ordered[1:]] + [directory]
    if ordered[0].header:
        raise broken(source, f"{ordered[0].header:,} bytes stand before its first entry")
    for member, limit, after in zip(ordered, limits, [*ordered[1:], None], strict=True):
        if member.header + _LOCAL.size + len(member.name.encode()) + member.size > limit:
            next_one = f"entry `{after.name}`" if after else "the zip directory"
            raise broken(source, f"entry `{member.name}` overlaps {next_one}")
    return [member._replace(limit=limit) for member, limit in zip(ordered, limits, strict=True)]


def _in_one_folder(source: ByteSource, members: list[Member]) -> Archive:
    """The entries by the rest of their names; each lies in the same folder, none is there twice."""
    inside: dict[str, Member] = {}
    folder = members[0].name.partition("/")[0] if members else ""
    for member in members:
        top, _, name = member.name.partition("/")
        if top != folder or (not name and member.size):
            raise broken(source, f"entry `{member.name}` is not in the folder `{folder}` of the others")
        if name in inside:
            raise broken(source, f"it holds `{member.name}` twice")
        inside[name] = member
    return Archive(source=source, folder=folder, members=inside)


def read_members(archive: Archive, names: Iterable[str]) -> dict[str, bytes]:
    """The content of small entries, as far as they exist, in few reads; checksums are checked.

    Raises:
        FormatError: an entry is not where the directory says, or its checksum is wrong.
    """
    wanted = [archive.members[name] for name in names if name in archive.members]
    ends = [min(m.limit, m.header + _LOCAL.size + len(m.name.encode()) + _MAX_EXTRA + m.size) for m in wanted]
    pieces = _read_pieces(archive.source, [(m.header, end) for m, end in zip(wanted, ends, strict=True)])
    contents: dict[str, bytes] = {}
    for member, piece in zip(wanted, pieces, strict=True):
        start = _start_from(archive.source, member, piece) - member.header
        data = piece[start : start + member.size]
        # torch.serialization.set_crc32_options(False) leaves checksums at 0.
        if member.crc and zlib.crc32(data) != member.crc:
            hint = "the file is damaged; fetch it again"
            raise broken(archive.source, f"entry `{member.name}` has another checksum", hint=hint)
        contents[member.name.partition("/")[2]] = data
    return contents


def data_starts(archive: Archive, members: list[Member], alignment: int) -> dict[str, int]:
    """Where the data of each entry begins, by the entry's full name.

    Raises:
        FormatError: an entry is not where the directory says.
    """
    if isinstance(archive.source, LocalSource):
        return _read_starts(archive.source, members)
    computed = {member.name: member.start(alignment) for member in members}
    ends = {member.name for member in (members[:1] + members[-1:])}
    probed = [member for member in members if computed[member.name] is None or member.name in ends]
    read = _read_starts(archive.source, probed)
    if any(computed[name] not in (None, start) for name, start in read.items()):
        return _read_starts(archive.source, members)
    return {name: start for name, start in (computed | read).items() if start is not None}


def _read_starts(source: ByteSource, members: list[Member]) -> dict[str, int]:
    ranges = [(member.header, member.header + _LOCAL.size + len(member.name.encode())) for member in members]
    pieces = _read_pieces(source, ranges)
    return {m.name: _start_from(source, m, piece) for m, piece in zip(members, pieces, strict=True)}


def _start_from(source: ByteSource, member: Member, piece: bytes) -> int:
    """Where the data begins, by the local header that begins the piece."""
    sign, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack_from(piece)
    name = piece[_LOCAL.size : _LOCAL.size + name_length]
    if sign != _LOCAL_SIGN or name != member.name.encode() or method or flags & _ENCRYPTED:
        raise broken(source, f"entry `{member.name}` is not where the zip directory says")
    start: int = member.header + _LOCAL.size + name_length + extra_length
    if start + member.size > member.limit:
        raise broken(source, f"entry `{member.name}` overlaps what follows it")
    return start


def _read_pieces(source: ByteSource, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range; near ones of a remote file in one request."""
    pieces: dict[tuple[int, int], bytes] = {}
    for group in _joined(ranges, 0 if isinstance(source, LocalSource) else _GAP):
        first = group[0][0]
        block = source.exactly(first, max(end for _, end in group) - first, "zip entries")
        pieces |= {(start, end): block[start - first : end - first] for start, end in group}
    return [pieces[piece] for piece in ranges]


def _joined(ranges: list[tuple[int, int]], gap: int) -> Iterator[list[tuple[int, int]]]:
    """The ranges in the order of the file, those together that are to be read at once."""
    group: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if group and (start > group[-1][1] + gap or end > group[0][0] + _MAX_JOINED):
            yield group
            group = []
        group.append((start, end))
    if group:
        yield group
