"""Checkpoints on the hub: which commit, which files, what is moved, and what each failure says."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from dovetail.errors import DovetailError, MissingError, RemoteError, UnsafeError, UsageError, WriteError
from dovetail.store.hub import HubFolder, hub_folder, parse_hub_path
from dovetail.store.remote import HttpSource
from dovetail.store.safetensors import read_safetensors
from dovetail.store.source import LocalSource
from hubserver import OUTSIDER, TOKEN, HubServer, hub_server
from sparsefile import qwen2_vl_header, write_sparse

REPO = "owner/name"
LOGIN = "set HF_TOKEN or run `hf auth login`"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def commit(hub: HubServer) -> str:
    """A repository with some files; its only commit."""
    put(
        hub,
        "first",
        {"config.json": "{}", "model.safetensors": "weights", "sub/deep.bin": "deep", "a/b/c": "far"},
    )
    return hub.add(REPO, "first")


def put(hub: HubServer, folder: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = hub.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def refusal(kind: type[DovetailError], ask: Any, *arguments: Any) -> str:
    """The whole message of the error that a call raises, which must be of this very class."""
    with pytest.raises(kind) as caught:
        ask(*arguments)
    assert type(caught.value) is kind
    return str(caught.value)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# -- what the user writes


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf://owner/name", ("owner/name", None, "")),
        ("hf://owner/name/", ("owner/name", None, "")),
        ("hf://models/owner/name", ("owner/name", None, "")),
        ("hf://Qwen/Qwen2.5-VL_3B", ("Qwen/Qwen2.5-VL_3B", None, "")),
        ("hf://owner/name@main", ("owner/name", "main", "")),
        ("hf://owner/name@v1.0/sub/model.safetensors", ("owner/name", "v1.0", "sub/model.safetensors")),
        ("hf://owner/name@refs/pr/12", ("owner/name", "refs/pr/12", "")),
        ("hf://owner/name@refs/pr/12/sub/", ("owner/name", "refs/pr/12", "sub")),
        ("hf://owner/name@refs/convert/parquet/x", ("owner/name", "refs/convert/parquet", "x")),
        ("hf://owner/name@feature%2Fnew/x", ("owner/name", "feature/new", "x")),
        ("hf://owner/name/a@b.bin", ("owner/name", None, "a@b.bin")),
        (f"hf://owner/name@{'a' * 40}/x", ("owner/name", "a" * 40, "x")),
    ],
)
def test_what_a_path_means(text: str, parsed: tuple[str, str | None, str]) -> None:
    assert parse_hub_path(text) == parsed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://huggingface.co/owner/name", "it does not begin with `hf://`"),
        ("hf:/owner/name", "it does not begin with `hf://`"),
        ("hf://", "it has no owner"),
        ("hf://gpt2", "it has no name"),
        ("hf://owner/", "it has no name"),
        ("hf:///name", "it has no owner"),
        ("hf://owner/name@", "no revision follows the `@`"),
        ("hf://owner/name@/x", "no revision follows the `@`"),
        ("hf://owner/name@a..b", "`a..b` cannot be a revision"),
        ("hf://owner/name@..%2F..%2Fx", "`../../x` cannot be a revision"),
        ("hf://owner/name@a b", "`a b` cannot be a revision"),
        ("hf://ow ner/name", "`ow ner` cannot be a repository's owner"),
        ("hf://owner/-name", "`-name` cannot be a repository's name"),
        ("hf://owner/na--me", "`na--me` cannot be a repository's name"),
        ("hf://owner/name.git", "`name.git` cannot be a repository's name"),
        (f"hf://owner/{'x' * 97}", f"`{'x' * 97}` cannot be a repository's name"),
        ("hf://../..", "`..` cannot be a repository's owner"),
        ("hf://datasets/owner/name", "`datasets` hold no models; dovetail reads model repositories"),
        ("hf://owner/name/../x", "`../x` is not a path inside a repository"),
        ("hf://owner/name//x", "`/x` is not a path inside a repository"),
        ("hf://owner/name/C:/x", "`C:/x` is not a path inside a repository"),
    ],
)
def test_what_is_no_path(text: str, why: str) -> None:
    form = "hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/path/in/repository"
    said = f"`{text}` is not a repository of the hub: {why}\n\nhint: write {form}"
    assert refusal(UsageError, parse_hub_path, text) == said


# -- which commit and which files


def test_files_come_with_their_sizes(hub: HubServer, commit: str) -> None:
    folder, name = hub_folder("hf://owner/name")
    assert hub.seen == []
    assert (folder.name, name) == ("hf://owner/name", "")
    assert folder.files() == {"config.json": 2, "model.safetensors": 7, "sub/deep.bin": 4}
    assert folder.commit.id == commit
    assert folder.commit.sizes == {**folder.files(), "a/b/c": 3}
    assert hub.methods() == ["GET /api/models/owner/name"]


def test_what_is_not_cached_is_read_in_ranges(hub: HubServer, commit: str) -> None:
    folder = HubFolder(REPO)
    assert folder.read("model.safetensors") == b"weights"
    assert folder.read("config.json") == b"{}"
    assert isinstance(folder.open("sub/deep.bin"), HttpSource)
    assert hub.methods() == [
        "GET /api/models/owner/name",
        f"GET /owner/name/resolve/{commit}/model.safetensors",
        "GET /first/model.safetensors",
        f"GET /owner/name/resolve/{commit}/config.json",
        f"GET /api/resolve-cache/models/owner/name/{commit}/config.json",
    ]
    assert all("accept-encoding" in seen.headers for seen in hub.seen)
    assert hub.served == {"first/model.safetensors": 7, "first/config.json": 2}


def test_a_push_in_between_changes_nothing(hub: HubServer, commit: str) -> None:
    folder = HubFolder(REPO)
    assert folder.files()["model.safetensors"] == 7
    put(hub, "second", {"config.json": "[1]", "model.safetensors": "other weights"})
    second = hub.add(REPO, "second")
    assert folder.read("model.safetensors") == b"weights"
    assert HubFolder(REPO).read("model.safetensors") == b"other weights"
    assert HubFolder(REPO, revision=commit).read("config.json") == b"{}"
    assert HubFolder(REPO, revision="main").commit.id == second != commit


def test_a_revision_with_a_slash(hub: HubServer, commit: str) -> None:
    hub.repos[REPO].refs["refs/pr/3"] = commit
    folder, name = hub_folder("hf://owner/name@refs/pr/3/sub/deep.bin")
    assert (folder.name, name) == ("hf://owner/name@refs/pr/3/sub", "deep.bin")
    assert folder.read(name) == b"deep"
    assert hub.methods()[0] == "GET /api/models/owner/name/revision/refs%2Fpr%2F3"


@pytest.mark.parametrize(
    ("path", "folder", "name", "files"),
    [
        (
            "config.json",
            "hf://owner/name",
            "config.json",
            ["config.json", "model.safetensors", "sub/deep.bin"],
        ),
        ("sub", "hf://owner/name/sub", "", ["deep.bin"]),
        ("a/", "hf://owner/name/a", "", ["b/c"]),
        ("a/b/c", "hf://owner/name/a/b", "c", ["c"]),
    ],
)
def test_a_path_leads_to_a_folder_or_a_file(
    hub: HubServer, commit: str, path: str, folder: str, name: str, files: list[str]
) -> None:
    found, file = hub_folder(f"hf://owner/name/{path}")
    assert (found.name, file, list(found.files())) == (folder, name, files)
    assert len(hub.seen) == 1


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_list_without_sizes_is_asked_for_page_by_page(hub: HubServer, commit: str, page: int) -> None:
    hub.faults.no_sizes, hub.page = True, page
    assert HubFolder(REPO).commit.sizes == {
        "a/b/c": 3,
        "config.json": 2,
        "model.safetensors": 7,
        "sub/deep.bin": 4,
    }
    pages = {1: 7, 2: 4, 1000: 1}[page]  # four files and three folders
    assert (
        hub.methods()
        == ["GET /api/models/owner/name"] + [f"GET /api/models/owner/name/tree/{commit}"] * pages
    )


def test_a_list_that_may_be_cut_off_is_asked_for_again(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dovetail.store.hub._MAX_SIBLINGS", 3)
    assert len(HubFolder(REPO).commit.sizes) == 4
    assert hub.methods()[1] == f"GET /api/models/owner/name/tree/{commit}"


def test_a_header_of_4_gigabytes_moves_the_header_only(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (hub.root / "qwen").mkdir()
    header = write_sparse(hub.root / "qwen" / "model.safetensors", qwen2_vl_header())
    commit = hub.add("Qwen/Qwen2-VL-2B", "qwen", gated=True)
    folder = HubFolder("Qwen/Qwen2-VL-2B")
    assert folder.files() == {"model.safetensors": 4_418_057_016}
    source = folder.open("model.safetensors")
    assert isinstance(source, HttpSource)
    shard = read_safetensors(source)
    assert len(shard.entries) == 729
    assert source.moved == header == 85_816
    assert hub.served == {"qwen/model.safetensors": 85_816}
    resolve = f"GET /Qwen/Qwen2-VL-2B/resolve/{commit}/model.safetensors"
    content = "GET /qwen/model.safetensors"
    assert hub.methods() == ["GET /api/models/Qwen/Qwen2-VL-2B", *[resolve, content] * 2]
    # the token goes to the hub, and never to where the hub sends us
    logins = {seen.server: seen.headers.get("authorization") for seen in hub.seen}
    assert logins == {"hub": f"Bearer {TOKEN}", "cdn": None}


def test_the_hub_has_the_last_word_on_versions(hub: HubServer, commit: str) -> None:
    """CDN nodes may tag the same bytes differently; the hub's tag is of the content."""
    (hub.root / "first" / "model.safetensors").write_bytes(bytes(200_000))
    source = HubFolder(REPO).open("model.safetensors")
    hub.faults.etags = ["same", "one node", "same", "another node"]
    assert source.read_at(0, 8) + source.read_at(150_000, 8) == bytes(16)
    hub.faults.etags = ["other", "another node"]
    message = refusal(RemoteError, source.read_at, 180_000, 8)
    assert message == (
        "the file changed on the server while it was read\n"
        "  file      model.safetensors\n"
        f"  url       {hub.url}/owner/name/resolve/{commit}/model.safetensors\n"
        '  expected  "same"\n'
        '  found     "other"\n\n'
        "hint: run the command again"
    )


def test_a_failing_hub_is_asked_again(hub: HubServer, commit: str) -> None:
    hub.faults.statuses = [503, 502]
    assert HubFolder(REPO).commit.id == commit
    assert len(hub.seen) == 3


# -- the cache


def test_a_download_is_cached_for_everyone(hub: HubServer, commit: str) -> None:
    folder = HubFolder(REPO)
    path = folder.download("model.safetensors")
    assert Path(path).read_bytes() == b"weights"
    assert f"/snapshots/{commit}/" in path
    asked = len(hub.seen)
    assert folder.download("model.safetensors") == path
    source = folder.open("model.safetensors")
    assert isinstance(source, LocalSource)
    assert (source.name, source.path, source.read_at(0, 7)) == ("model.safetensors", path, b"weights")
    assert len(hub.seen) == asked
    source.close()
    assert HubFolder(REPO, path="sub").download("deep.bin").endswith("/sub/deep.bin")


def test_a_text_file_is_downloaded_in_spite_of_its_compression(hub: HubServer, commit: str) -> None:
    assert Path(HubFolder(REPO).download("config.json")).read_text() == "{}"


def test_a_commit_in_the_cache_needs_no_network(hub: HubServer, commit: str) -> None:
    path = HubFolder(REPO).download("config.json")
    hub.seen.clear()
    folder = HubFolder(REPO, revision=commit)
    assert folder.read("config.json") == b"{}"
    assert folder.download("config.json") == path
    assert hub.seen == []


def test_another_commit_in_the_cache_is_another_file(hub: HubServer, commit: str) -> None:
    HubFolder(REPO).download("config.json")
    put(hub, "second", {"config.json": "[1]"})
    hub.add(REPO, "second")
    assert HubFolder(REPO).read("config.json") == b"[1]"


def test_offline_there_is_the_cache(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, "model.safetensors")  # by branch, so that the cache knows what main is
    HubFolder(REPO).download("sub/deep.bin")
    hub.seen.clear()
    go_offline(monkeypatch)
    for revision in (None, "main", commit):
        folder = HubFolder(REPO, revision=revision)
        assert folder.files() == {"model.safetensors": 7, "sub/deep.bin": 4}
        assert folder.commit.id == commit
        assert folder.read("model.safetensors") == b"weights"
    assert hub_folder("hf://owner/name/sub/deep.bin")[1] == "deep.bin"
    assert refusal(MissingError, HubFolder(REPO).open, "config.json") == (
        "the cache does not have this file, and offline mode is on\n"
        "  file        config.json\n"
        "  repository  hf://owner/name\n"
        f"  commit      {commit}\n\n"
        "hint: unset HF_HUB_OFFLINE, or fetch the file beforehand with `hf download`"
    )
    assert hub.seen == []


@pytest.mark.parametrize("revision", [None, "v1", "c" * 40, "refs/pr/1"])
def test_offline_without_the_revision(
    hub: HubServer, commit: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    folder = HubFolder(REPO, revision=revision)
    said = (
        "the cache does not have this revision, and offline mode is on\n"
        "  repository  hf://owner/name\n"
        f"  revision    {revision or 'main'}\n"
        f"  cache       {tmp_path}/home/hub\n\n"
        "hint: unset HF_HUB_OFFLINE, or fetch it beforehand with `hf download owner/name`"
    )
    assert refusal(MissingError, folder.files) == said
    if revision != "c" * 40:
        assert refusal(MissingError, folder.download, "config.json") == said
    assert hub.seen == []


@pytest.mark.parametrize("content", [b"", b"main", b"\xff" * 40, b"../../../../../../etc"])
def test_a_broken_ref_in_the_cache_is_none(
    hub: HubServer, commit: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HubFolder(REPO).download("config.json")
    ref = tmp_path / "home" / "hub" / "models--owner--name" / "refs" / "main"
    ref.parent.mkdir(exist_ok=True)
    ref.write_bytes(content)
    go_offline(monkeypatch)
    message = refusal(MissingError, HubFolder(REPO).files)
    assert message.startswith("the cache does not have this revision, and offline mode is on\n")


def test_a_cache_that_cannot_be_written(
    hub: HubServer, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert refusal(WriteError, HubFolder(REPO).download, "config.json") == (
        "the download cannot be stored: Not a directory\n"
        "  file        config.json\n"
        "  repository  hf://owner/name\n"
        f"  cache       {tmp_path}/file/hub\n\n"
        "hint: make room there, or name another place with HF_HOME"
    )


# -- what is refused


def test_no_such_file(hub: HubServer, commit: str) -> None:
    said = (
        "the repository has no such file\n"
        "  file        modle.safetensors\n"
        "  repository  hf://owner/name\n"
        f"  commit      {commit}\n\n"
        "hint: it has `model.safetensors`"
    )
    folder = HubFolder(REPO)
    for ask in (folder.open, folder.read, folder.download):
        assert refusal(MissingError, ask, "modle.safetensors") == said
    assert refusal(MissingError, hub_folder, "hf://owner/name/modle.safetensors") == said
    assert refusal(MissingError, folder.open, "xyz").endswith("\n\nhint: check the spelling of the path")
    assert len(hub.seen) == 2


def test_a_file_that_the_hub_lists_and_does_not_give(hub: HubServer, commit: str) -> None:
    folder = HubFolder(REPO)
    assert folder.files()
    (hub.root / "first" / "model.safetensors").unlink()
    assert refusal(MissingError, folder.read, "model.safetensors") == (
        "the repository has no such file at this revision\n"
        "  file    model.safetensors\n"
        f"  url     {hub.url}/owner/name/resolve/{commit}/model.safetensors\n"
        "  answer  404 Not Found\n"
        "  server  Entry not found\n\n"
        "hint: check the spelling of the path"
    )
    assert refusal(MissingError, folder.download, "model.safetensors") == (
        "the repository has no such file at this revision\n"
        "  file        model.safetensors\n"
        "  repository  hf://owner/name\n"
        "  answer      404 Not Found\n"
        "  server      Entry not found\n\n"
        "hint: check the spelling of the path"
    )


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "sub/../../x", "sub/C:x", ""])
def test_a_folder_is_not_left(hub: HubServer, commit: str, name: str) -> None:
    folder = HubFolder(REPO)
    for ask in (folder.open, folder.download):
        message = refusal(UnsafeError, ask, name)
        assert message.endswith("hint: a checkpoint may only name files beside itself; do not trust this one")
    assert hub.seen == []


@pytest.mark.parametrize(
    ("token", "answer", "server"),
    [
        (None, "401 Unauthorized", "Invalid username or password."),
        (OUTSIDER, "404 Not Found", "Repository not found"),
    ],
)
@pytest.mark.parametrize("is_private", [True, False])
def test_no_such_repository_or_a_private_one(
    hub: HubServer,
    commit: str,
    token: str | None,
    answer: str,
    server: str,
    is_private: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if is_private:
        hub.add("owner/hidden", "first", private=True)
    assert refusal(MissingError, HubFolder("owner/hidden").files) == (
        "the hub has no such repository, or it is private\n"
        "  repository  hf://owner/hidden\n"
        "  revision    main\n"
        f"  endpoint    {hub.url}\n"
        f"  answer      {answer}\n"
        f"  server      {server}\n\n"
        f"hint: check the spelling of owner/name; for a private repository {LOGIN}"
    )


def test_a_private_repository_opens_with_its_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, "first", {"config.json": "{}"})
    hub.add("owner/hidden", "first", private=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN + "\n")  # what `hf auth login` writes
    assert HubFolder("owner/hidden").read("config.json") == b"{}"


def test_a_token_that_is_not_valid(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert refusal(RemoteError, HubFolder(REPO).files) == (
        "the server wants a login, or does not accept the one given\n"
        "  repository  hf://owner/name\n"
        "  revision    main\n"
        f"  endpoint    {hub.url}\n"
        "  answer      401 Unauthorized\n"
        "  server      Invalid credentials in Authorization header\n\n"
        f"hint: for the hub {LOGIN}; elsewhere write https://user:password@host/path"
    )


def test_a_token_that_is_none(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\x07secret")
    message = refusal(UsageError, HubFolder(REPO).files)
    assert message == f"the token for the hub holds characters that no token has\n\nhint: {LOGIN}"


@pytest.mark.parametrize(
    ("token", "answer", "server"),
    [
        (
            None,
            "401 Unauthorized",
            "Access to model owner/closed is restricted. "
            "You must have access to it and be authenticated to access it. Please log in.",
        ),
        (
            OUTSIDER,
            "403 Forbidden",
            "Access to model owner/closed is restricted and you are not in the authorized list. "
            "Visit {url}/owner/closed to ask for access.",
        ),
    ],
)
def test_a_gated_repository_is_listed_and_not_read(
    hub: HubServer, token: str | None, answer: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    put(hub, "first", {"model.safetensors": "weights"})
    commit = hub.add("owner/closed", "first", gated=True)
    folder = HubFolder("owner/closed")
    assert folder.files() == {"model.safetensors": 7}
    head = "the repository is gated, and this account has no access to it\n"
    hint = f"\n\nhint: ask for access on the repository's page, then {LOGIN}"
    assert refusal(RemoteError, folder.read, "model.safetensors") == (
        f"{head}  file    model.safetensors\n"
        f"  url     {hub.url}/owner/closed/resolve/{commit}/model.safetensors\n"
        f"  answer  {answer}\n"
        f"  server  {server.format(url=hub.url)}{hint}"
    )
    assert refusal(RemoteError, folder.download, "model.safetensors") == (
        f"{head}  file        model.safetensors\n"
        "  repository  hf://owner/closed\n"
        f"  answer      {answer}\n"
        f"  server      {server.format(url=hub.url)}{hint}"
    )


def test_no_such_revision(hub: HubServer, commit: str) -> None:
    assert refusal(MissingError, HubFolder(REPO, revision="v9").files) == (
        "the repository has no such revision\n"
        "  repository  hf://owner/name\n"
        "  revision    v9\n"
        f"  endpoint    {hub.url}\n"
        "  answer      404 Not Found\n"
        "  server      Invalid rev id: v9\n\n"
        "hint: name a branch, a tag or a commit of the repository: hf://owner/name@revision"
    )


def test_too_many_requests(hub: HubServer, commit: str) -> None:
    hub.faults.statuses, hub.faults.ratelimit = [429], '"api";r=0;t=55'
    assert refusal(RemoteError, HubFolder(REPO).files) == (
        "the server limits how often it may be asked\n"
        "  repository  hf://owner/name\n"
        "  revision    main\n"
        f"  endpoint    {hub.url}\n"
        "  answer      429 Too Many Requests\n\n"
        "hint: wait 55 s and run the command again"
    )
    assert len(hub.seen) == 1


def test_the_hub_cannot_be_reached(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = HubFolder(REPO)
    assert folder.files()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert refusal(RemoteError, HubFolder(REPO).files) == (
            "the server cannot be reached\n"
            "  repository  hf://owner/name\n"
            "  revision    main\n"
            f"  endpoint    {url}\n"
            "  reason      [Errno 111] Connection refused\n\n"
            "hint: check the address, the network and the proxy settings"
        )
        # huggingface_hub tries for 23 s before it gives up
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        assert refusal(RemoteError, folder.download, "config.json") == (
            "the server cannot be reached\n"
            "  file        config.json\n"
            "  repository  hf://owner/name\n"
            "  reason      [Errno 111] Connection refused\n\n"
            "hint: check the address, the network and the proxy settings"
        )


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b"{}", b"[]", b'"hello"'])
def test_what_answers_is_no_hub(hub: HubServer, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"{hub.url}/files"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    page = hub.root / "api" / "models" / "owner" / "name"
    page.parent.mkdir(parents=True)
    page.write_bytes(answer)
    assert refusal(RemoteError, HubFolder(REPO).files) == (
        "the answer is not one of a hub\n"
        "  repository  hf://owner/name\n"
        "  revision    main\n"
        f"  endpoint    {endpoint}\n\n"
        "hint: HF_ENDPOINT, or a log-in page of this network, may answer in place of the hub"
    )
    page.write_bytes(b'{"id": "owner/name", "sha": "../../x"}')
    assert refusal(RemoteError, HubFolder(REPO).files).startswith("the hub does not say which commit it is\n")


def test_a_page_of_the_list_is_refused(hub: HubServer, commit: str) -> None:
    hub.faults.no_sizes = True
    folder = HubFolder(REPO, revision=commit)
    hub.faults.statuses = [0, 403]
    assert refusal(RemoteError, folder.files) == (
        "the server refuses access\n"
        "  repository  hf://owner/name\n"
        f"  revision    {commit}\n"
        f"  endpoint    {hub.url}\n"
        "  answer      403 Forbidden\n\n"
        "hint: check that this account may read the file, and that a signed address has not expired"
    )


def test_a_download_that_is_inconsistent(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("Consistency check failed: file should be of size 7\nPlease retry")

    folder = HubFolder(REPO)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert refusal(RemoteError, folder.download, "model.safetensors") == (
        "the download did not succeed\n"
        "  file        model.safetensors\n"
        "  repository  hf://owner/name\n"
        "  reason      Consistency check failed: file should be of size 7\n\n"
        "hint: run the command again"
    )


# -- with nothing patched


def test_the_environment_is_huggingface_hubs(hub: HubServer, tmp_path: Path) -> None:
    put(hub, "first", {"config.json": "{}", "model.safetensors": "weights"})
    commit = hub.add("owner/hidden", "first", private=True)
    code = (
        "from dovetail.store.hub import hub_folder\n"
        "folder, name = hub_folder('hf://owner/hidden@main/model.safetensors')\n"
        "source = folder.open(name)\n"
        "print(type(source).__name__, source.read_at(0, 9), folder.commit.id)\n"
        "print(folder.download(name))\n"
    )

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "elsewhere"), **settings}
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )

    path = f"{tmp_path}/elsewhere/hub/models--owner--hidden/snapshots/{commit}/model.safetensors"
    assert run(HF_TOKEN=TOKEN).stdout == f"HttpSource b'weights' {commit}\n{path}\n"
    refs = tmp_path / "elsewhere" / "hub" / "models--owner--hidden" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    assert run(HF_HUB_OFFLINE="1").stdout == f"LocalSource b'weights' {commit}\n{path}\n"
    shutil.rmtree(tmp_path / "elsewhere")
    assert "MissingError: the hub has no such repository, or it is private" in run().stderr
