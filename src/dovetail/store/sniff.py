"""What kind of file this is, by its first bytes, and a clear word for what no checkpoint is."""

from dovetail.errors import FormatError
from dovetail.store.foreign import file_refusal
from dovetail.store.source import ByteSource

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LFS = b"version https://git-lfs.github.com/spec/"


class PointerError(FormatError):
    """A file is a Git LFS pointer: the name of the file that should be here."""


def sniff(source: ByteSource) -> str:
    """One of `safetensors`, `torch`, `json`.

    Raises:
        FormatError: it is none of these; the message says what it is instead.
    """
    if source.size == 0:
        raise FormatError("the file is empty", file=source.name, hint="the download failed; fetch it again")
    head = source.read_at(0, 512)
    if (
        head[4:9] == b"\0\0\0\0{"
    ):  # first: a header of 640 bytes begins as a pickle does, one of 35,615 as gzip
        return "safetensors"
    if refusal := file_refusal(head, source.name):
        raise refusal
    if head.startswith(_ZIP) or head.startswith(_PICKLE) or head[257:262] == b"ustar":
        return "torch"
    if head.startswith(_LFS):
        raise _lfs_pointer(source, head)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<" and any(tag in text.lower() for tag in (b"<html", b"<!doctype", b"<?xml", b"<head")):
        raise FormatError(
            "this is a web page, not a checkpoint",
            file=source.name,
            begins=_first_line(text),
            hint="the server sent an error or log-in page; download again with a token or the raw link",
        )
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ")):
        raise FormatError("this file is compressed", file=source.name, hint="unpack it first")
    if len(head) >= 9 and head[8:9] == b"{":
        return "safetensors"
    if text[:1] in (b"{", b"["):
        return "json"
    if 2 <= int.from_bytes(head[:8], "little") <= source.size or source.name.endswith(".safetensors"):
        return "safetensors"
    raise FormatError(
        "this is no checkpoint that dovetail knows",
        file=source.name,
        begins=repr(head[:16]),
        hint="dovetail reads safetensors, torch zip files (.pth .pt .bin .ckpt), indexes, header listings",
    )


def _lfs_pointer(source: ByteSource, head: bytes) -> PointerError:
    lines = head.decode(errors="replace").splitlines()
    size = next((line.removeprefix("size ") for line in lines if line.startswith("size ")), None)
    is_number = size is not None and size.isascii() and size.isdecimal() and len(size) < 20
    promised = f"a file of {int(size):,} bytes" if size and is_number else None
    return PointerError(
        "this is a Git LFS pointer, not the file it stands for",
        file=source.name,
        stands_for=promised,
        hint="run `git lfs pull` in the repository, or download the file from its web page",
    )


def _first_line(text: bytes) -> str:
    return text.splitlines()[0][:60].decode(errors="replace")
