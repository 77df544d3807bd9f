"""What the hub refuses, and what dovetail says then."""

import errno
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.errors import MissingError, RemoteError, UnsafeError, UsageError
from dovetail.store.remote.hub import HubFolder, open_hub
from hubserver import OUTSIDER, TOKEN, HubServer, hub_server, put, refusal

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
    assert refusal(MissingError, open_hub, "hf://owner/name/modle.safetensors") == said
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
            ". You must have access to it and be authenticated to access it. Please log in.",
        ),
        (
            OUTSIDER,
            "403 Forbidden",
            " and you are not in the authorized list. Visit {url}/owner/closed to ask for access.",
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
    server = "Access to model owner/closed is restricted" + server.format(url=hub.url)
    head = "the repository is gated, and this account has no access to it\n"
    hint = f"\n\nhint: ask for access on the repository's page, then {LOGIN}"
    assert refusal(RemoteError, folder.read, "model.safetensors") == (
        f"{head}  file    model.safetensors\n"
        f"  url     {hub.url}/owner/closed/resolve/{commit}/model.safetensors\n"
        f"  answer  {answer}\n"
        f"  server  {server}{hint}"
    )
    assert refusal(RemoteError, folder.download, "model.safetensors") == (
        f"{head}  file        model.safetensors\n"
        "  repository  hf://owner/closed\n"
        f"  answer      {answer}\n"
        f"  server      {server}{hint}"
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
            f"  reason      [Errno {errno.ECONNREFUSED}] Connection refused\n\n"
            "hint: check the address, the network and the proxy settings"
        )
        # huggingface_hub tries for 23 s before it gives up
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        assert refusal(RemoteError, folder.download, "config.json") == (
            "the server cannot be reached\n"
            "  file        config.json\n"
            "  repository  hf://owner/name\n"
            f"  reason      [Errno {errno.ECONNREFUSED}] Connection refused\n\n"
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


@pytest.mark.parametrize("size", ["x", "²", -1, 2**70, 1.5, True, [], {}])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_size_that_is_none(
    hub: HubServer, size: object, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"{hub.url}/files")
    file = {"rfilename": "config.json", **({"lfs": {"size": size}} if is_large else {"size": size})}
    page = hub.root / "api" / "models" / "owner" / "name"
    page.parent.mkdir(parents=True)
    page.write_text(json.dumps({"id": "owner/name", "sha": "a" * 40, "siblings": [file]}))
    assert refusal(RemoteError, HubFolder(REPO).files).startswith(
        "the hub gives a file a size that is none\n"
    )


@pytest.mark.parametrize(
    "siblings", [3, ["config.json"], [{"rfilename": 3}], [{}], [{"rfilename": "a", "lfs": {"size": "x"}}]]
)
def test_a_list_that_is_none(hub: HubServer, siblings: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"{hub.url}/files")
    page = hub.root / "api" / "models" / "owner" / "name"
    page.parent.mkdir(parents=True)
    page.write_text(json.dumps({"id": "owner/name", "sha": "a" * 40, "siblings": siblings}))
    refusal(RemoteError, HubFolder(REPO).files)


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
