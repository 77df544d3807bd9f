"""Checkpoints on the hub: which commit, which files, what is moved."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.errors import FormatError, MissingError, RemoteError, UnsafeError, UsageError, WriteError
from dovetail.store.open import open_checkpoint
from dovetail.store.remote.http import HttpSource
from dovetail.store.remote.hub import HubFolder, open_hub, parse_hub_path
from dovetail.store.safetensors.read import read_safetensors
from dovetail.store.source import LocalSource
from hubserver import TOKEN, HubServer, hub_server, put, refusal
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
    folder, name = open_hub("hf://owner/name")
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
    folder, name = open_hub("hf://owner/name@refs/pr/3/sub/deep.bin")
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
    found, file = open_hub(f"hf://owner/name/{path}")
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
    monkeypatch.setattr("dovetail.store.remote.hub._MAX_SIBLINGS", 3)
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


def test_opening_a_checkpoint_moves_its_header_only(hub: HubServer) -> None:
    """From the text to the tensors, as `dovetail inspect` goes."""
    (hub.root / "qwen").mkdir()
    header = write_sparse(hub.root / "qwen" / "model.safetensors", qwen2_vl_header())
    put(hub, "qwen", {"config.json": '{"model_type": "qwen2_vl"}'})
    hub.add("Qwen/Qwen2-VL-2B", "qwen")
    for text in ("hf://Qwen/Qwen2-VL-2B", "hf://Qwen/Qwen2-VL-2B@main/model.safetensors"):
        hub.served.clear()
        with open_checkpoint(text) as store:
            assert len(store.entries) == 729
            assert store.side_file("config.json") == b'{"model_type": "qwen2_vl"}'
        assert hub.served == {"qwen/model.safetensors": header, "qwen/config.json": 26}


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
    gone = HubFolder(REPO).download("config.json")
    os.unlink(os.path.realpath(gone))  # a link to nowhere is not a file
    hub.seen.clear()
    go_offline(monkeypatch)
    for revision in (None, "main", commit):
        folder = HubFolder(REPO, revision=revision)
        assert folder.files() == {"model.safetensors": 7, "sub/deep.bin": 4}
        assert folder.commit.id == commit
        assert folder.read("model.safetensors") == b"weights"
    assert open_hub("hf://owner/name/sub/deep.bin")[1] == "deep.bin"
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


# -- with nothing patched


def test_the_environment_is_huggingface_hubs(hub: HubServer, tmp_path: Path) -> None:
    put(hub, "first", {"config.json": "{}", "model.safetensors": "weights"})
    commit = hub.add("owner/hidden", "first", private=True)
    code = (
        "from dovetail.store.remote.hub import open_hub\n"
        "folder, name = open_hub('hf://owner/hidden@main/model.safetensors')\n"
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


# -- links in the cache


def relink(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("is_offline", [False, True])
@pytest.mark.parametrize("way", ["a file", "a blob", "a folder", "the blobs", "another repository"])
def test_a_link_in_the_cache_that_leaves_it_is_refused(
    hub: HubServer, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, is_offline: bool
) -> None:
    name = "sub/deep.bin" if way == "a folder" else "config.json"
    cached = Path(HubFolder(REPO).download(name))
    blob = cached.resolve()
    secret = tmp_path / "elsewhere" / blob.name
    secret.parent.mkdir()
    secret.write_text("secret")
    if way == "a file":
        relink(cached, secret)
    elif way == "another repository":
        other = tmp_path / "home/hub/models--owner--other/blobs/secret"
        other.parent.mkdir(parents=True)
        secret.rename(other)
        relink(cached, secret := other)
    elif way == "a blob":
        relink(blob, secret)
    elif way == "a folder":
        secret = secret.rename(secret.with_name("deep.bin"))
        shutil.rmtree(cached.parent)
        cached.parent.symlink_to(secret.parent)
    else:
        shutil.rmtree(blob.parent)
        blob.parent.symlink_to(secret.parent)
    if is_offline:
        go_offline(monkeypatch)
    folder = HubFolder(REPO, revision=commit if is_offline else None)
    for ask in (folder.open, folder.download, folder.read):
        assert refusal(UnsafeError, ask, name) == (
            f"`{name}` is a symbolic link that leaves the checkpoint's folder\n"
            f"  folder  {folder.name}\n  target  {secret}\n\n"
            "hint: give dovetail the target itself if you trust it"
        )


@pytest.mark.parametrize("way", ["links to blobs", "plain files", "a cache behind a link"])
def test_a_cache_as_the_hub_s_library_makes_it_is_read(
    hub: HubServer, commit: str, tmp_path: Path, way: str
) -> None:
    cached = Path(HubFolder(REPO).download("sub/deep.bin"))
    assert cached.is_symlink()
    if way == "plain files":
        cached.unlink()
        cached.write_text("deep")
    elif way == "a cache behind a link":
        storage = cached.parents[3]
        storage.rename(tmp_path / "moved")
        storage.symlink_to(tmp_path / "moved")
    assert HubFolder(REPO).read("sub/deep.bin") == b"deep"
    assert HubFolder(REPO, path="sub").download("deep.bin") == str(cached)


# -- what people paste


def test_the_page_of_a_repository_is_opened_as_the_repository(hub: HubServer) -> None:
    (hub.root / "first").mkdir()
    write_sparse(hub.root / "first" / "model.safetensors", qwen2_vl_header())
    hub.add(REPO, "first")
    for page in (f"https://huggingface.co/{REPO}", f"huggingface.co/{REPO}/tree/main"):
        with open_checkpoint(page) as store:
            assert (store.path.split("@")[0], len(store.entries)) == (f"hf://{REPO}", 729)


def test_a_repository_of_gguf_files_is_to_be_downloaded_first(hub: HubServer) -> None:
    put(hub, "first", {"model-Q4_K_M.gguf": "GGUF", "README.md": "#"})
    hub.add(REPO, "first")
    with pytest.raises(FormatError, match="this is a GGUF file") as refused:
        open_checkpoint(f"hf://{REPO}")
    assert (refused.value.hint or "").startswith("download it and make it readable: `python -c ")
    assert " model-Q4_K_M.gguf OUT.pth`" in (refused.value.hint or "")
