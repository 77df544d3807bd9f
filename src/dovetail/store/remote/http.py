"""Files behind `http://` and `https://`, read in ranges: what is not asked for is not moved.

A safetensors file costs one request when its header is short and two when it is long: the first
asks for 64 KiB, learns the file's size from the answer, and what it brought is kept.

Range requests are those of RFC 9110 sec. 14: an answer is used when it is 206 with the very
Content-Range that was asked for, or 200 with a body that is no longer than that.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from dovetail.errors import RemoteError, UnsafeError
from dovetail.store.folder import Folder, check_name
from dovetail.store.remote.deadline import each
from dovetail.store.remote.request import (
    check_url,
    count_of,
    http_library,
    login_headers,
    patiently,
    refused,
    request,
    shown_url,
)
from dovetail.store.source import ByteSource

READ_AHEAD = 64 << 10
_ENDINGS = (".safetensors", ".json", ".pth", ".pt", ".bin", ".ckpt", ".yaml")
_PROBED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "consolidated.00.pth",
    "consolidated.safetensors",
    "dovetail.json",
    "generation_config.json",
    "lit_model.pth",
    "merges.txt",
    "model.safetensors",
    "model.safetensors.index.json",
    "model_config.yaml",
    "params.json",
    "preprocessor_config.json",
    "processor_config.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
)


class HttpSource(ByteSource):
    """A file on a web server; `moved` counts the bytes of it that came over the network.

    Args:
        name: what messages call it; by default its address.
        size: its size where that is known, so that opening asks for nothing.

    Raises:
        MissingError: there is no such file.
        RemoteError: the server does not give it, or not in parts.
        UsageError: the address is not one.
    """

    def __init__(self, url: str, *, name: str | None = None, size: int | None = None) -> None:
        check_url(url)
        self.url = url
        self.name = name or shown_url(url)
        self.moved = 0
        self.size = -1 if size is None else size
        # A range of a compressed body would be bytes of something else.
        self._headers = {**login_headers(url), "accept-encoding": "identity"}
        self._version: str | None = None
        self._held: tuple[tuple[int, bytes], ...] = ()
        if size is None:
            self._hold(0, self._fetch(0, READ_AHEAD))

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        held = self._take(offset, end)
        start = offset + len(held)
        if start == end:
            return held
        low, high = (start, end) if held else self._span(start, end)
        data = self._fetch(low, high)
        if high - low <= READ_AHEAD:
            self._hold(low, data)
        return held + data[start - low : end - low]

    def close(self) -> None:
        """Lets go of all but the beginning, which whoever opens the file again wants first."""
        self._held = tuple(held for held in self._held if held[0] == 0)

    def _take(self, offset: int, end: int) -> bytes:
        """What is held of a range, from its beginning."""
        for base, data in self._held:
            if base <= offset < base + len(data):
                return data[offset - base : end - base]
        return b""

    def _hold(self, base: int, data: bytes) -> None:
        """Keeps the beginning of the file and the last short piece of it."""
        first = [held for held in self._held if held[0] == 0 != base]
        self._held = (*first, (base, data))

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """The range to ask for: a short one grows where more of it will surely be wanted.

        That is at the beginning and where one read continues another (headers, pickles), and, growing
        backwards, at the end (the directory of a zip).
        """
        is_next = any(base + len(data) == start for base, data in self._held)
        if end - start >= READ_AHEAD:
            return start, end
        if start == 0 or is_next:
            return start, min(start + READ_AHEAD, self.size)
        return (max(0, end - READ_AHEAD), end) if end == self.size else (start, end)

    def _fetch(self, start: int, end: int) -> bytes:
        return patiently(lambda: self._ask(start, end), end - start, **self._where())

    def _ask(self, start: int, end: int) -> bytes:
        with request("GET", self.url, {**self._headers, "range": f"bytes={start}-{end - 1}"}) as answer:
            return self._body(answer, self._accept(answer, start, end))

    def _accept(self, answer: Any, start: int, end: int) -> int:
        """The length of the body, once everything that the answer says about it is right."""
        said = answer.headers.get("content-range", "no Content-Range")
        if answer.status_code == 416 and self.size < 0 and said == "bytes */0":
            self.size = 0
            return 0
        if answer.status_code not in (200, 206):
            raise refused(answer, **self._where())
        if (encoding := answer.headers.get("content-encoding", "identity")) != "identity":
            raise self._odd("the server compresses what it was asked to send as it is", "identity", encoding)
        self._check_version(answer)
        is_part = answer.status_code == 206
        total = self._part(said, start, end) if is_part else self._whole(answer, start, end)
        if self.size >= 0 and total != self.size:
            raise self._changed(f"{self.size:,} bytes", f"{total:,} bytes")
        self.size = total
        return min(end, total) - start

    def _check_version(self, answer: Any) -> None:
        version = _version(answer)
        if self._version and version and version != self._version:
            raise self._changed(self._version, version)
        self._version = self._version or version

    def _whole(self, answer: Any, start: int, end: int) -> int:
        """The file's size where the server sends all of it, which is refused unless it is short."""
        length = count_of(answer.headers.get("content-length", ""))
        if start == 0 and length is not None and length <= end:
            return length
        amount = "a body of unknown length" if length is None else f"all {length:,} bytes"
        raise self._odd("the server does not serve parts of a file", f"bytes {start}-{end - 1}", amount)

    def _part(self, said: str, start: int, end: int) -> int:
        """The file's size, from a Content-Range that is the one asked for."""
        if match := re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", said):
            first, last, total = map(int, match.groups())
            if first == start and last == min(end, total) - 1:
                return total
        raise self._odd(
            "the server sent other bytes than it was asked for", f"bytes {start}-{end - 1}", said[:100]
        )

    def _body(self, answer: Any, length: int) -> bytes:
        parts: list[bytes] = []
        count = 0
        for part in answer.iter_raw() if length else ():
            parts.append(part)
            count += len(part)
            self.moved += len(part)
            if count > length:
                raise self._odd("the server sent more than it announced", f"{length:,} bytes", "more")
        if count < length:
            raise http_library().RemoteProtocolError(f"the body ended after {count:,} of {length:,} bytes")
        return b"".join(parts)

    def _where(self) -> dict[str, str]:
        url = shown_url(self.url)
        return {"url": url} if self.name == url else {"file": self.name, "url": url}

    def _odd(self, message: str, expected: str, found: str) -> RemoteError:
        hint = "download the file and give dovetail the local copy"
        return RemoteError(message, **self._where(), expected=expected, found=found, hint=hint)

    def _changed(self, expected: str, found: str) -> RemoteError:
        message, hint = "the file changed on the server while it was read", "run the command again"
        return RemoteError(message, **self._where(), expected=expected, found=found, hint=hint)


class HttpFolder(Folder):
    """A folder on a web server, which is not asked for a list of its files, as few give one.

    Args:
        url: an address ending in `/`, or that of a file in the folder.

    Raises:
        UsageError: the address is not one.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = urljoin(url, ".")
        self.name = shown_url(self.url)
        self._given = {_last(url): url} if _last(url) else {}
        self._sizes: dict[str, int] | None = None
        self._sources: dict[str, HttpSource] = {}

    def files(self) -> dict[str, int]:
        """The files that such folders usually have, where they are there, and those that an index names.

        Each is asked for by its name, the first time that this is called.
        """
        if self._sizes is None:
            sizes = self._probe({*_PROBED, *self._given})
            shards = {shard for name in sizes if name.endswith(".index.json") for shard in self._shards(name)}
            self._sizes = dict(sorted((sizes | self._probe(shards - sizes.keys())).items()))
        return dict(self._sizes)

    def open(self, name: str) -> HttpSource:
        """One file; the same one every time, so that a change between two readings of it is noticed.

        Raises:
            MissingError: it does not exist.
            RemoteError: the server does not give it, or not in parts.
            UnsafeError: the name leaves the folder.
        """
        check_name(name, self.name)
        if name not in self._sources:
            size = (self._sizes or {}).get(name)
            self._sources[name] = HttpSource(self._url(name), name=name, size=size)
        return self._sources[name]

    def _url(self, name: str) -> str:
        return self._given.get(name) or urljoin(self.url, "./" + quote(name))

    def _probe(self, names: set[str]) -> dict[str, int]:
        ordered = sorted(names)
        sizes = each(lambda name: size_of(self._url(name), name=name), ordered, at_once=8)
        return {name: size for name, size in zip(ordered, sizes, strict=True) if size is not None}

    def _shards(self, index: str) -> Iterator[str]:
        """The files that an index names. What is wrong with it is for its reader to say."""
        try:
            named = set(json.loads(self.read(index))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        for shard in named:
            try:
                check_name(shard, self.name)
            except (UnsafeError, AttributeError):
                continue
            yield shard


def open_url(url: str) -> tuple[HttpFolder, str]:
    """The folder that an address leads to, and the name of the file in it, "" for the folder itself.

    Raises:
        UsageError: the address is not one.
    """
    check_url(url)
    scheme, host, path, _, _ = urlsplit(url)
    if path.endswith(_ENDINGS):
        return HttpFolder(url), _last(url)
    return HttpFolder(urlunsplit((scheme, host, path.rstrip("/") + "/", "", ""))), ""


def size_of(url: str, *, name: str | None = None) -> int | None:
    """The size of a file, None where there is none; a web page in its place counts as none.

    Raises:
        RemoteError: the server does not say.
    """
    where = {"file": name, "url": shown_url(url)} if name else {"url": shown_url(url)}

    def ask() -> int | None:
        headers = {**login_headers(url), "accept-encoding": "identity"}
        with request("HEAD", url, headers) as answer:
            length = count_of(answer.headers.get("content-length", ""))
            if answer.status_code == 200 and length is not None:
                return None if _is_page(answer) else length
            if answer.status_code in (404, 410):
                return None
        # Some servers refuse HEAD, and an address signed for GET does too.
        with request("GET", url, {**headers, "range": "bytes=0-0"}) as answer:
            return _size_said(answer, where)

    return patiently(ask, **where)


def _size_said(answer: Any, where: dict[str, str]) -> int | None:
    """The size according to the answer to a request for the first byte."""
    # 403 is how a bucket that may not be listed says 404.
    if answer.status_code in (403, 404, 410) or (answer.status_code < 300 and _is_page(answer)):
        return None
    length = count_of(answer.headers.get("content-length", ""))
    total = count_of(answer.headers.get("content-range", "").rpartition("/")[2])
    if answer.status_code == 200 and length is not None:
        return length
    if answer.status_code in (206, 416) and total is not None:
        return total
    if answer.status_code in (200, 206):
        hint = "download the file and give dovetail the local copy"
        raise RemoteError("the server does not say how large the file is", **where, hint=hint)
    raise refused(answer, **where)


def _version(answer: Any) -> str | None:
    """What tells one version of the file from another; the hub's word for it goes before its CDN's."""
    for step in answer.history:
        if linked := step.headers.get("x-linked-etag"):
            return str(linked)
    said = answer.headers.get("etag") or answer.headers.get("last-modified")
    return str(said).removeprefix("W/") if said else None


def _is_page(answer: Any) -> bool:
    return bool(answer.headers.get("content-type", "").startswith("text/html"))


def _last(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])
