"""A hub on this machine: the endpoints that huggingface_hub 2.4 calls, files from a folder, and faults.

    /api/models/OWNER/NAME[/revision/REV]           what the repository is; its files with ?blobs
    /api/models/OWNER/NAME/tree/REV[?recursive]     its files in pages, with Link: rel="next"
    /OWNER/NAME/resolve/REV/FILE                    307 to /api/resolve-cache for a small text file,
                                                    302 to the CDN for what Git LFS holds
    /api/resolve-cache/models/OWNER/NAME/SHA/FILE   the text file itself, gzipped for those who take it
    /files/PATH                                     an ordinary web server's file, no hub involved
    /locked/PATH                                    the same for me:secret

The CDN is a second server on another port, so another origin; it refuses an authorization header, as
signed addresses do. There is no Xet storage: its headers are absent. Bodies are counted per file.
"""

import base64
import gzip
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

LARGE = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
TOKEN = "hf_me"  # may read every repository
OUTSIDER = "hf_outsider"  # is valid, but may read neither gated nor private ones
_BLOCK = 64 << 10


@dataclass
class Repo:
    """A repository: one folder for each commit, and names for commits."""

    folders: dict[str, Path]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.folders else None)

    def files(self, commit: str) -> dict[str, Path]:
        folder = self.folders[commit]
        return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass
class Faults:
    """What goes wrong, all of it switched off."""

    statuses: list[int] = field(default_factory=list)  # for the next requests, whatever they are
    resets: int = 0  # how many of the next bodies end in a connection reset
    cuts: int = 0  # how many of the next bodies end a byte early
    excess: int = 0  # bytes that follow the body, for which it must have no length
    ignores_ranges: bool = False
    wrong_range: str = ""  # a Content-Range to send in place of the true one
    no_range: bool = False  # 206 without a Content-Range
    encoding: str = ""  # a Content-Encoding to claim
    etags: list[str] = field(default_factory=list)  # of the next answers, the last one for good
    head_status: int = 0  # how HEAD is answered
    no_length: bool = False  # bodies end where the connection does
    no_sizes: bool = False  # the hub's list of files says nothing about sizes
    retry_after: str = ""
    ratelimit: str = ""
    delay: threading.Event | None = None  # bodies wait for it


class Seen(NamedTuple):
    """One request that arrived."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """The hub and its CDN, to be used in a `with`.

    `seen` has every request, `served` the bytes of each file by its path on disk, relative to `root`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.served: Counter[str] = Counter()
        self.page = 1000
        self._lock = threading.Lock()
        self._servers = [_Server(self, name) for name in ("hub", "cdn")]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def add(self, name: str, folder: str, **options: Any) -> str:
        """Makes a folder below `root` the main branch of a repository; gives the commit."""
        commit = hashlib.sha1(f"{name} {folder}".encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, {}, **options))
        repo.folders[commit] = self.root / folder
        repo.refs["main"] = commit
        return commit

    def methods(self) -> list[str]:
        """What was asked for, as `METHOD path`, without the query."""
        return [f"{seen.method} {seen.path.partition('?')[0]}" for seen in self.seen]

    def count(self, path: Path, amount: int) -> None:
        with self._lock:
            self.served[str(path.relative_to(self.root))] += amount

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)

    def take_status(self) -> int:
        with self._lock:
            return self.faults.statuses.pop(0) if self.faults.statuses else 0

    def take(self, fault: str) -> bool:
        """Whether a fault that happens a number of times happens now."""
        with self._lock:
            left = getattr(self.faults, fault)
            setattr(self.faults, fault, max(0, left - 1))
            return bool(left)

    def etag(self, path: Path) -> str:
        """The faked tag if there is one, else a hash; a sparse file's is not that of its content."""
        with self._lock:
            if self.faults.etags:
                return self.faults.etags.pop(0) if len(self.faults.etags) > 1 else self.faults.etags[0]
        size = path.stat().st_size
        content = path.read_bytes() if size < 1 << 20 else f"{path} {size}".encode()
        return hashlib.sha256(content).hexdigest()

    def tag(self, path: Path) -> str:
        """The ETag header of a file, "" for none."""
        etag = self.etag(path)
        return f'"{etag}"' if etag.isalnum() else etag

    def __enter__(self) -> "HubServer":
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,)) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = False  # so that closing waits for the handlers, and no socket is left behind

    def __init__(self, hub: HubServer, name: str) -> None:
        self.hub = hub
        self.name = name
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients of these tests hang up in the middle on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
    server: _Server

    def do_GET(self) -> None:
        hub = self.server.hub
        headers = {key.lower(): value for key, value in self.headers.items()}
        hub.note(Seen(self.server.name, self.command, self.path, headers))
        if status := hub.take_status():
            return self.refuse(status, **self.waits())
        if self.command == "HEAD" and (status := hub.faults.head_status):
            return self.refuse(status)
        for pattern, method in _ROUTES[self.server.name]:
            if match := re.fullmatch(pattern, urlsplit(self.path).path):
                method(self, *map(unquote, match.groups()))
                return None
        return self.refuse(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def waits(self) -> dict[str, str]:
        faults = self.server.hub.faults
        said = {"Retry-After": faults.retry_after, "RateLimit": faults.ratelimit}
        return {key: value for key, value in said.items() if value}

    # -- answers

    def refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message}
        body = json.dumps({"error": message}).encode() if message else b"no"
        self.answer(status, body, {**{key: value for key, value in said.items() if value}, **headers})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def redirect(self, status: int, location: str, headers: dict[str, str]) -> None:
        self.answer(status, b"", {"Location": location, **headers})

    def send_file(self, path: Path, headers: dict[str, str]) -> None:
        """A file, or the part of it that was asked for, with the faults that are switched on."""
        faults, size = self.server.hub.faults, path.stat().st_size
        start, end = self.range(size)
        status = 206 if "range" in self.headers and not faults.ignores_ranges else 200
        if start >= end and status == 206:
            return self.refuse(416, **{"Content-Range": f"bytes */{size}"})
        self.send_response(status)
        if status == 206 and not faults.no_range:
            headers = {"Content-Range": faults.wrong_range or f"bytes {start}-{end - 1}/{size}", **headers}
        if faults.encoding:
            headers = {"Content-Encoding": faults.encoding, **headers}
        for key, value in {"Accept-Ranges": "bytes", **headers}.items():
            if value:
                self.send_header(key, value)
        if faults.no_length:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(path, start, end)
        return None

    def range(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if not match or self.server.hub.faults.ignores_ranges:
            return 0, size
        return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)

    def send_body(self, path: Path, start: int, end: int) -> None:
        hub = self.server.hub
        if hub.faults.delay:
            hub.faults.delay.wait(10)
        if hub.take("resets"):
            self.close_connection = True
            # closing without lingering resets the connection
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if hub.take("cuts"):
            self.close_connection = True
            end -= 1
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                block = file.read(min(_BLOCK, end - start))
                hub.count(path, len(block))  # before it is sent: the client may look at once
                self.wfile.write(block)
                start += len(block)
        self.wfile.write(bytes(hub.faults.excess))

    # -- who may

    def repo(self, name: str) -> Repo | None:
        """The repository, if there is one that this client may see; else the client is told off."""
        token = self.headers.get("authorization", "")
        repo = self.server.hub.repos.get(name)
        if token not in ("", f"Bearer {TOKEN}", f"Bearer {OUTSIDER}"):
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif repo and (not repo.private or token == f"Bearer {TOKEN}"):
            return repo
        elif token:
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:
            self.refuse(401, "RepoNotFound", "Invalid username or password.")
        return None

    def may_read(self, name: str, repo: Repo) -> bool:
        token = self.headers.get("authorization", "")
        if not repo.gated or token == f"Bearer {TOKEN}":
            return True
        said = f"Access to model {name} is restricted"
        if token:
            ask = f"Visit {self.server.hub.url}/{name} to ask for access."
            self.refuse(403, "GatedRepo", f"{said} and you are not in the authorized list. {ask}")
        else:
            ask = "You must have access to it and be authenticated to access it. Please log in."
            self.refuse(401, "GatedRepo", f"{said}. {ask}")
        return False

    def commit(self, repo: Repo, revision: str) -> str | None:
        if commit := repo.commit(revision):
            return commit
        self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    # -- the hub

    def info(self, name: str, revision: str = "main") -> None:
        if (repo := self.repo(name)) is None or (commit := self.commit(repo, revision)) is None:
            return
        has_sizes = "blobs" in parse_qs(urlsplit(self.path).query) and not self.server.hub.faults.no_sizes
        siblings = [
            {
                "rfilename": entry["path"],
                **({key: entry[key] for key in ("size", "lfs") if key in entry} if has_sizes else {}),
            }
            for entry in self.entries(repo, commit)
        ]
        for sibling in siblings:
            if "lfs" in sibling:
                sibling["lfs"] = {**sibling["lfs"], "sha256": sibling["lfs"]["oid"]}
        body = {
            "_id": "1",
            "id": name,
            "sha": commit,
            "private": repo.private,
            "siblings": siblings,
            "tags": [],
        }
        self.answer(
            200, json.dumps(body).encode(), {"Content-Type": "application/json", "X-Repo-Commit": commit}
        )

    def tree(self, name: str, revision: str) -> None:
        if (repo := self.repo(name)) is None or (commit := self.commit(repo, revision)) is None:
            return
        entries = self.entries(repo, commit)
        folders = sorted({str(parent) for entry in entries for parent in Path(entry["path"]).parents} - {"."})
        entries = [{"type": "directory", "oid": "0", "size": 0, "path": path} for path in folders] + entries
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        start, page = int(query.get("cursor", 0)), self.server.hub.page
        headers = {"Content-Type": "application/json"}
        if start + page < len(entries):
            path = f"/api/models/{name}/tree/{quote(revision, safe='')}"
            after = f"recursive={query.get('recursive', 'False')}&cursor={start + page}"
            headers["Link"] = f'<{self.server.hub.url}{path}?{after}>; rel="next"'
        self.answer(200, json.dumps(entries[start : start + page]).encode(), headers)

    def entries(self, repo: Repo, commit: str) -> list[dict[str, Any]]:
        found = []
        for name, path in repo.files(commit).items():
            size, etag = path.stat().st_size, self.server.hub.etag(path)
            entry: dict[str, Any] = {"type": "file", "oid": etag[:40], "size": size, "path": name}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": etag, "size": size, "pointerSize": 135}
            found.append(entry)
        return found

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (repo := self.repo(name)) is None or not self.may_read(name, repo):
            return None
        if (commit := self.commit(repo, revision)) is None:
            return None
        if (path := repo.files(commit).get(file)) is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        hub, headers = self.server.hub, {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not file.endswith(LARGE):
            return self.redirect(307, f"/api/resolve-cache/models/{name}/{commit}/{quote(file)}", headers)
        size, etag = path.stat().st_size, hub.etag(path)
        headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{etag}"'}
        where = f"{hub.cdn}/{quote(str(path.relative_to(hub.root)))}?Signature={etag[:8]}"
        return self.redirect(302, where, headers)

    def small(self, name: str, commit: str, file: str) -> None:
        path = self.server.hub.repos[name].files(commit)[file]
        headers = {"ETag": f'"{self.server.hub.etag(path)[:40]}"', "X-Repo-Commit": commit}
        if "gzip" not in self.headers.get("accept-encoding", ""):
            return self.send_file(path, headers)
        packed = gzip.compress(path.read_bytes())
        self.server.hub.count(path, len(packed))
        return self.answer(200, packed, {"Content-Encoding": "gzip", **headers})

    # -- web servers

    def content(self, file: str) -> None:
        if "authorization" in self.headers:
            return self.refuse(400, message="Only one auth mechanism allowed")
        return self.plain(file)

    def locked(self, file: str) -> None:
        login = base64.b64encode(b"me:secret").decode()
        if self.headers.get("authorization") != f"Basic {login}":
            return self.refuse(401, **{"WWW-Authenticate": 'Basic realm="test"'})
        return self.plain(file)

    def plain(self, file: str) -> None:
        path = self.server.hub.root / file
        if not path.is_file():
            return self.refuse(404)
        kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
        return self.send_file(path, {"ETag": self.server.hub.tag(path), "Content-Type": kind})

    def circle(self) -> None:
        self.redirect(302, self.path, {})

    def elsewhere(self) -> None:
        self.redirect(302, "ftp://127.0.0.1/model.safetensors", {})

    def page(self, _: str) -> None:
        self.answer(200, b"<html>everything is here</html>", {"Content-Type": "text/html; charset=utf-8"})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: dict[str, list[tuple[str, Any]]] = {
    "hub": [
        (rf"/api/models/{_NAME}", _Handler.info),
        (rf"/api/models/{_NAME}/revision/([^/]+)", _Handler.info),
        (rf"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
        (rf"/api/resolve-cache/models/{_NAME}/([^/]+)/(.+)", _Handler.small),
        (rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
        (r"/files/(.+)", _Handler.plain),
        (r"/locked/(.+)", _Handler.locked),
        (r"/circle", _Handler.circle),
        (r"/elsewhere", _Handler.elsewhere),
        (r"/pages/(.*)", _Handler.page),
    ],
    "cdn": [(r"/(.+)", _Handler.content)],
}


@contextmanager
def hub_server(root: Path, patch: Any) -> Iterator[HubServer]:
    """A running hub that huggingface_hub in this process takes for the hub, with a cache of its own.

    Args:
        root: a new folder: `root/www` is what is served, `root/home` is HF_HOME.
        patch: pytest's `monkeypatch`; huggingface_hub reads its environment when it is imported, so its
            constants are set.
    """
    from huggingface_hub import close_session, constants

    (root / "www").mkdir()
    close_session()
    patch.setattr("dovetail.store.remote.request.DELAYS", (0.0, 0.0, 0.0))
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_OIDC_RESOURCE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
    ):
        patch.delenv(name, raising=False)
    with HubServer(root / "www") as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(root / "home" / "hub"),
            "HF_TOKEN_PATH": str(root / "home" / "token"),
            "HF_STORED_TOKENS_PATH": str(root / "home" / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
            "HF_HUB_DOWNLOAD_TIMEOUT": 10,
        }
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        try:
            yield server
        finally:
            close_session()


def put(server: HubServer, folder: str, files: dict[str, str]) -> None:
    """Writes text files into a folder below what is served."""
    for name, text in files.items():
        path = server.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def refusal(kind: type[Exception], ask: Any, *arguments: Any) -> str:
    """The whole message of the error that a call raises, which must be of this very class."""
    with pytest.raises(kind) as caught:
        ask(*arguments)
    assert type(caught.value) is kind
    return str(caught.value)
