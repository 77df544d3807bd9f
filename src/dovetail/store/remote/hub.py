"""A checkpoint in a repository of the Hugging Face hub: `hf://owner/name[@revision][/path]`.

A revision is resolved to a commit once, and everything afterwards asks for that commit, so that a push
in between changes nothing. What the local cache has of the commit is read from there; of the rest, the
ranges that are needed are read from the hub. HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and the
login are huggingface_hub's. The cache's layout is documented at
https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote, unquote

from dovetail.errors import DovetailError, MissingError, RemoteError, UsageError, WriteError
from dovetail.store.folder import Folder, check_name, check_target
from dovetail.store.remote.deadline import Waiter
from dovetail.store.remote.http import HttpSource
from dovetail.store.remote.request import (
    body,
    count_of,
    http_library,
    in_time,
    login_headers,
    patiently,
    refused,
    request,
    shown_url,
    translated,
    watched,
)
from dovetail.store.source import ByteSource, LocalSource

PREFIX = "hf://"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
# Of revisions with a slash, only these are written as they are; in others the slash is %2F.
_REF = re.compile(r"refs/(?:pr/[0-9]+|convert/[A-Za-z0-9_.-]+)(?=/|$)")
_NO_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^[/.-]|[/.]$|//|\.lock$")
_OTHER_KINDS = ("datasets", "spaces", "kernels", "buckets")
# Above this the hub's list of siblings may be cut off (huggingface_hub 1.0 `_snapshot_download.py`).
_MAX_SIBLINGS = 50_000
_MAX_PAGES = 1000
_MAX_LIST = 64 << 20
_NO_HUB = "HF_ENDPOINT, or a log-in page of this network, may answer in place of the hub"
_FORM = "write hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/path/in/repository"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit of a repository, and the files that can be had of it with their sizes in bytes."""

    id: str
    sizes: dict[str, int]


class HubFolder(Folder):
    """A folder in a repository of the hub; nothing is asked for before it is needed.

    Args:
        revision: a branch, tag, commit or `refs/pr/1`; by default the repository's main branch.
        path: the folder in the repository, "" for its root.
        commit: what the revision was resolved to, where that was done before.
    """

    def __init__(
        self, repo: str, *, revision: str | None = None, path: str = "", commit: Commit | None = None
    ) -> None:
        self.repo = repo
        self.revision = revision
        self.path = path
        self.name = PREFIX + repo + (f"@{revision}" if revision else "") + (f"/{path}" if path else "")
        self._commit = commit

    @property
    def commit(self) -> Commit:
        """What the revision stands for.

        Raises:
            MissingError: there is no such repository or revision, or not in the cache while offline.
            RemoteError: the hub cannot be reached or refuses.
        """
        if self._commit is None:
            ask = _cached if _is_offline() else _asked
            self._commit = ask(self.repo, self.revision)
        return self._commit

    def files(self) -> dict[str, int]:
        start = f"{self.path}/" if self.path else ""
        inside = {
            name.removeprefix(start): size
            for name, size in self.commit.sizes.items()
            if name.startswith(start)
        }
        return {name: inside[name] for name in sorted(inside) if name.count("/") < 2}

    def open(self, name: str) -> ByteSource:
        """One file, from the cache where it is there, else from the hub.

        Raises:
            MissingError: it does not exist, or not in the cache while offline.
            RemoteError: the hub cannot be reached or refuses.
            UnsafeError: the name leaves the folder, or a link in the cache leaves the cache.
        """
        full = self._full(name)
        if path := self._cached_path(full):
            return LocalSource(path, name=name)
        from huggingface_hub import hf_hub_url

        self._check_listed(full)
        url = hf_hub_url(self.repo, full, revision=self.commit.id)
        return HttpSource(url, name=name, size=self.commit.sizes[full])

    def download(self, name: str) -> str:
        """The path of one file in the cache, fetched as a whole if it is not there yet.

        Raises:
            MissingError: it does not exist, or not in the cache while offline.
            RemoteError: the hub cannot be reached, refuses, breaks off, or does not finish.
            UnsafeError: the name leaves the folder, or a link in the cache leaves the cache.
            WriteError: the cache cannot be written.
        """
        full = self._full(name)
        if path := self._cached_path(full):
            return path
        from huggingface_hub import constants, hf_hub_download

        self._check_listed(full)
        login_headers(constants.ENDPOINT + "/")
        where = {"file": name, "repository": self.name}

        def fetch(waiter: Waiter) -> str:
            with watched(waiter):
                return str(hf_hub_download(self.repo, full, revision=self.commit.id, library_name="dovetail"))

        try:
            return in_time(fetch, self.commit.sizes[full], **where)
        except http_library().HTTPError as error:
            raise translated(error, **where) from error
        except OSError as error:
            raise _failed(error, where) from error

    def _full(self, name: str) -> str:
        for part in (name, *name.split("/")):  # huggingface_hub refuses a drive at any level
            check_name(part, self.name)
        return f"{self.path}/{name}" if self.path else name

    def _cached_path(self, full: str) -> str | None:
        """Where the cache has a file of this commit. A commit given in full is not looked up first."""
        from huggingface_hub import try_to_load_from_cache

        is_exact = self._commit is None and self.revision is not None and _COMMIT.fullmatch(self.revision)
        commit = self.revision if is_exact else self.commit.id
        path = try_to_load_from_cache(self.repo, full, revision=commit)
        if not isinstance(path, str):
            return None
        # A file of a snapshot is a link to one of the cache's blobs, or lies there itself.
        storage = os.path.realpath(_storage(self.repo))
        snapshot = os.path.join(storage, "snapshots", str(commit))
        check_target(path, full, self.name, [snapshot, os.path.join(storage, "blobs")])
        return path

    def _check_listed(self, full: str) -> None:
        if full not in self.commit.sizes:
            raise _no_file(full, self.commit, self.name)


def open_hub(text: str) -> tuple[HubFolder, str]:
    """The folder that `hf://…` leads to, and the name of the file in it, "" for the folder itself.

    Raises:
        MissingError: the repository has no such path.
        RemoteError: the hub cannot be reached or refuses.
        UsageError: the text has another form.
    """
    repo, revision, path = parse_hub_path(text)
    root = HubFolder(repo, revision=revision)
    if not path:
        return root, ""
    commit = root.commit
    if path in commit.sizes:
        parent, _, name = path.rpartition("/")
        return HubFolder(repo, revision=revision, path=parent, commit=commit), name
    if any(name.startswith(path + "/") for name in commit.sizes):
        return HubFolder(repo, revision=revision, path=path, commit=commit), ""
    raise _no_file(path, commit, root.name)


def parse_hub_path(text: str) -> tuple[str, str | None, str]:
    """The repository, revision and path of `hf://owner/name[@revision][/path]`.

    >>> parse_hub_path("hf://Qwen/Qwen2-VL-2B@refs/pr/3/model.safetensors")
    ('Qwen/Qwen2-VL-2B', 'refs/pr/3', 'model.safetensors')

    Raises:
        UsageError: the text has another form.
    """
    if not text.startswith(PREFIX):
        raise _malformed(text, f"it does not begin with `{PREFIX}`")
    rest = text.removeprefix(PREFIX).removeprefix("models/")
    owner, _, rest = rest.partition("/")
    if "?" in text or "@" in owner:  # which may hold secrets, so they are not quoted
        raise _malformed(text, "it has a query" if "?" in text else "it begins with a login; set HF_TOKEN")
    if owner in _OTHER_KINDS:
        raise _malformed(text, f"`{owner}` hold no models; dovetail reads model repositories")
    name = re.split("[@/]", rest, maxsplit=1)[0]
    mark, rest = rest[len(name) : len(name) + 1], rest[len(name) + 1 :]
    for part, what in ((owner, "owner"), (name, "name")):
        if not _is_name(part):
            raise _malformed(
                text, f"`{part}` cannot be a repository's {what}" if part else f"it has no {what}"
            )
    revision, path = _split_revision(text, rest) if mark == "@" else (None, rest)
    path = path.removesuffix("/")
    if path and any(part in ("", ".", "..") or part[1:2] == ":" for part in path.split("/")):
        raise _malformed(text, f"`{path}` is not a path inside a repository")
    return f"{owner}/{name}", revision, path


def _split_revision(text: str, rest: str) -> tuple[str, str]:
    match = _REF.match(rest)
    revision = match.group() if match else rest.partition("/")[0]
    path = rest[len(revision) :].removeprefix("/")
    revision = unquote(revision)
    if not revision or _NO_REF.search(revision):
        raise _malformed(
            text, f"`{revision}` cannot be a revision" if revision else "no revision follows the `@`"
        )
    return revision, path


def _is_name(part: str) -> bool:
    """Whether the hub allows it (huggingface_hub `utils/_validators.py:validate_repo_id`)."""
    is_reserved = "--" in part or ".." in part or part.endswith(".git")
    return bool(_NAME.fullmatch(part)) and len(part) <= 96 and not is_reserved


def _malformed(text: str, why: str) -> UsageError:
    return UsageError(f"`{shown_url(text)}` is not a repository of the hub: {why}", hint=_FORM)


def _asked(repo: str, revision: str | None) -> Commit:
    """The commit according to the hub: one request, or a few when there are very many files."""
    from huggingface_hub import constants

    endpoint = shown_url(constants.ENDPOINT)
    where = {"repository": PREFIX + repo, "revision": revision or "main", "endpoint": endpoint}
    home = f"{constants.ENDPOINT}/api/models/{repo}"
    address = home if revision is None else f"{home}/revision/{quote(revision, safe='')}"
    info, _ = _json(f"{address}?blobs=true", where)
    siblings = info.get("siblings") or [] if isinstance(info, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("id"), str) or not isinstance(siblings, list):
        raise RemoteError("the answer is not one of a hub", **where, hint=_NO_HUB)
    commit = info.get("sha")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise RemoteError("the hub does not say which commit it is", **where, hint=_NO_HUB)
    sizes = dict(_file(sibling, "rfilename", where) for sibling in siblings)
    if not sizes or len(sizes) > _MAX_SIBLINGS or None in sizes.values():
        sizes = _listed(f"{home}/tree/{commit}?recursive=True", where)
    return Commit(id=commit, sizes={name: size for name, size in sizes.items() if size is not None})


def _listed(address: str, where: dict[str, str]) -> dict[str, int | None]:
    """The files of a commit, page by page."""
    from huggingface_hub import constants

    sizes: dict[str, int | None] = {}
    for _ in range(_MAX_PAGES):
        entries, answer = _json(address, where)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RemoteError("the answer is not one of a hub", **where, hint=_NO_HUB)
        sizes |= (_file(entry, "path", where) for entry in entries if entry.get("type") == "file")
        address = answer.links.get("next", {}).get("url", "")
        if not address:
            return sizes
        if not address.startswith(constants.ENDPOINT + "/"):
            raise RemoteError("the list of files goes on at another server", **where, hint=_NO_HUB)
    raise RemoteError("the list of files does not end", **where, expected=f"at most {_MAX_PAGES:,} pages")


def _json(address: str, where: dict[str, str]) -> tuple[Any, Any]:
    """The JSON at an address of the hub, and the answer that it came in."""
    headers = {**login_headers(address), "accept-encoding": "identity"}

    def ask() -> tuple[bytes, Any]:
        with request("GET", address, headers) as answer:
            if answer.status_code != 200:
                raise refused(answer, **where)
            return body(answer, _MAX_LIST), answer

    said, answer = patiently(ask, **where)
    try:
        return json.loads(said), answer
    except (ValueError, RecursionError) as error:  # a web page
        raise RemoteError("the answer is not one of a hub", **where, hint=_NO_HUB) from error


def _file(entry: Any, key: str, where: dict[str, str]) -> tuple[str, int | None]:
    """A file in a list of the hub, and its size: of a large file itself, not of its LFS pointer."""
    name = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise RemoteError("the answer is not one of a hub", **where, hint=_NO_HUB)
    large = entry.get("lfs")
    size = large.get("size") if isinstance(large, dict) else entry.get("size")
    if size is not None and (size := count_of(size if type(size) is int else None)) is None:
        raise RemoteError("the hub gives a file a size that is none", **where, file=name, hint=_NO_HUB)
    return name, size


def _cached(repo: str, revision: str | None) -> Commit:
    """The commit according to the cache, with those of its files that are there."""
    from huggingface_hub import constants

    storage = _storage(repo)
    commit = _cached_id(storage, revision or "main")
    snapshot = os.path.join(storage, "snapshots", commit or "")
    if commit is None or not os.path.isdir(snapshot):
        raise MissingError(
            "the cache does not have this revision, and offline mode is on",
            repository=PREFIX + repo,
            revision=revision or "main",
            cache=constants.HF_HUB_CACHE,
            hint=f"unset HF_HUB_OFFLINE, or fetch it beforehand with `hf download {repo}`",
        )
    sizes = {}
    for home, _, names in os.walk(snapshot):
        for name in names:
            path = os.path.join(home, name)
            if os.path.isfile(path):
                sizes[os.path.relpath(path, snapshot).replace(os.sep, "/")] = os.path.getsize(path)
    return Commit(id=commit, sizes=sizes)


def _storage(repo: str) -> str:
    """The folder of the cache that has everything of a repository."""
    from huggingface_hub import constants

    return os.path.join(constants.HF_HUB_CACHE, "models--" + repo.replace("/", "--"))


def _cached_id(storage: str, revision: str) -> str | None:
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        with open(os.path.join(storage, "refs", *revision.split("/")), encoding="ascii") as file:
            commit = file.read(41).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _no_file(path: str, commit: Commit, folder: str) -> MissingError:
    if _is_offline():
        message = "the cache does not have this file, and offline mode is on"
        hint = "unset HF_HUB_OFFLINE, or fetch the file beforehand with `hf download`"
    else:
        message = "the repository has no such file"
        near = get_close_matches(path, commit.sizes, n=1)
        hint = f"it has `{near[0]}`" if near else "check the spelling of the path"
    return MissingError(message, file=path, repository=folder, commit=commit.id, hint=hint)


def _failed(error: OSError, where: dict[str, str]) -> DovetailError:
    """The error of ours for one of a download: of the network, of the hub's answer, or of the disk."""
    from huggingface_hub import constants

    if isinstance(error.__cause__, http_library().HTTPError):
        return translated(error.__cause__, **where)
    if error.errno is None:
        reason, hint = str(error).splitlines()[0], "run the command again"
        return RemoteError("the download did not succeed", **where, reason=reason, hint=hint)
    return WriteError(
        f"the download cannot be stored: {error.strerror}",
        **where,
        cache=constants.HF_HUB_CACHE,
        hint="make room there, or name another place with HF_HOME",
    )
