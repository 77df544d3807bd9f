"""Requests that fail: what is tried again, what each refusal says, and what is sent to whom."""

import errno
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.errors import DovetailError, MissingError, RemoteError, UsageError
from dovetail.store.remote.http import HttpFolder, HttpSource, open_url
from dovetail.store.remote.request import check_url, http_library, shown_url
from hubserver import TOKEN, HubServer, hub_server, refusal


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def big(hub: HubServer) -> str:
    """The address of a file of 300,000 bytes."""
    (hub.root / "big.bin").write_bytes(b"abcde" * 60_000)
    return f"{hub.url}/files/big.bin"


@pytest.fixture
def small(hub: HubServer) -> str:
    (hub.root / "small.json").write_bytes(b'{"a": 1}')
    return f"{hub.url}/files/small.json"


def respond_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes every request of huggingface_hub's client end in an error."""
    from huggingface_hub import close_session, set_client_factory
    from huggingface_hub.utils import _http as settings

    def fail(request: Any) -> Any:
        raise error

    monkeypatch.setattr(settings, "_GLOBAL_CLIENT_FACTORY", settings._GLOBAL_CLIENT_FACTORY)
    close_session()
    set_client_factory(lambda: http_library().Client(transport=http_library().MockTransport(fail)))


# -- what passes


@pytest.mark.parametrize("fault", ["cuts", "resets"])
def test_a_body_that_breaks_off_is_asked_for_again(hub: HubServer, big: str, fault: str) -> None:
    setattr(hub.faults, fault, 3)
    assert HttpSource(big).read_at(0, 8) == b"abcdeabc"
    assert len(hub.seen) == 4


@pytest.mark.parametrize("fault", ["cuts", "resets"])
def test_a_body_that_always_breaks_off_is_an_error(hub: HubServer, big: str, fault: str) -> None:
    setattr(hub.faults, fault, 4)
    message = refusal(RemoteError, HttpSource, big)
    reset = f"[Errno {errno.ECONNRESET}] Connection reset by peer"
    reason = reset if fault == "resets" else message.splitlines()[2][10:]
    assert message == (
        "the connection to the server breaks off\n"
        f"  url     {big}\n"
        f"  reason  {reason}\n\n"
        "hint: try again later, or download the file and give dovetail the local copy"
    )
    assert len(hub.seen) == 4


def test_a_body_without_length_that_is_short_is_asked_for_again(hub: HubServer, big: str) -> None:
    """Nothing but the Content-Range tells that a byte is missing."""
    hub.faults.no_length, hub.faults.cuts = True, 4
    assert refusal(RemoteError, HttpSource, big) == (
        "the connection to the server breaks off\n"
        f"  url     {big}\n"
        "  reason  the body ended after 65,535 of 65,536 bytes\n\n"
        "hint: try again later, or download the file and give dovetail the local copy"
    )
    assert HttpSource(big).size == 300_000


def test_a_failing_server_is_asked_again(hub: HubServer, big: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("dovetail.store.remote.request.DELAYS", (0.5, 1.0, 2.0))
    monkeypatch.setattr("dovetail.store.remote.request.sleep", waited.append)
    hub.faults.statuses = [503, 503]
    assert HttpSource(big).size == 300_000
    assert waited == [0.5, 1.0]


def test_a_server_that_keeps_failing_is_an_error(hub: HubServer, big: str) -> None:
    hub.faults.statuses = [503, 500, 504, 502, 502]
    assert refusal(RemoteError, HttpSource, big) == (
        f"the server failed 4 times\n  url     {big}\n  answer  502 Bad Gateway\n\nhint: try again later"
    )
    assert hub.faults.statuses == [502]


def test_a_silent_server_is_an_error(hub: HubServer, big: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    hub.faults.delay = threading.Event()
    message = refusal(RemoteError, HttpSource, big)
    hub.faults.delay.set()
    assert message == (
        "the server does not answer in time\n"
        f"  url     {big}\n"
        "  reason  timed out\n\n"
        "hint: try again, or allow more seconds with HF_HUB_DOWNLOAD_TIMEOUT"
    )
    assert len(hub.seen) == 4


# -- what is refused


@pytest.mark.parametrize(
    ("status", "kind", "message", "answer", "hint"),
    [
        (
            401,
            RemoteError,
            "the server wants a login, or does not accept the one given",
            "401 Unauthorized",
            "for the hub set HF_TOKEN or run `hf auth login`; elsewhere write https://user:password@host/path",
        ),
        (
            403,
            RemoteError,
            "the server refuses access",
            "403 Forbidden",
            "check that this account may read the file, and that a signed address has not expired",
        ),
        (
            404,
            MissingError,
            "there is no such file on the server",
            "404 Not Found",
            "check the spelling of the address",
        ),
        (410, MissingError, "the file is no longer on the server", "410 Gone", "ask its owner where it went"),
        (
            416,
            RemoteError,
            "the server does not have the bytes asked for",
            "416 Requested Range Not Satisfiable",
            "the file may have changed while it was read; run the command again",
        ),
        (
            429,
            RemoteError,
            "the server limits how often it may be asked",
            "429 Too Many Requests",
            "wait a few minutes and run the command again",
        ),
        (
            501,
            RemoteError,
            "the server answers something unexpected",
            "501 Not Implemented",
            "check the address",
        ),
        (
            418,
            RemoteError,
            "the server answers something unexpected",
            "418 I'm a Teapot",
            "check the address",
        ),
    ],
)
def test_each_refusal_says_what_to_do(
    hub: HubServer, big: str, status: int, kind: type[DovetailError], message: str, answer: str, hint: str
) -> None:
    hub.faults.statuses = [status]
    assert refusal(kind, HttpSource, big) == f"{message}\n  url     {big}\n  answer  {answer}\n\nhint: {hint}"
    assert len(hub.seen) == 1


@pytest.mark.parametrize(
    ("retry_after", "ratelimit", "wait"),
    [("120", "", "120 s"), ("", '"resolvers";r=0;t=55', "55 s"), ("Fri, 31 Dec 1999", "", "a few minutes")],
)
def test_a_limit_says_how_long_to_wait(
    hub: HubServer, big: str, retry_after: str, ratelimit: str, wait: str
) -> None:
    hub.faults.statuses, hub.faults.retry_after, hub.faults.ratelimit = [429], retry_after, ratelimit
    message = refusal(RemoteError, HttpSource, big)
    assert message.endswith(f"\n\nhint: wait {wait} and run the command again")


def test_a_file_that_shrank_has_no_such_bytes(hub: HubServer, small: str) -> None:
    source = HttpSource(small, name="small.json", size=100)
    assert refusal(RemoteError, source.read_at, 50, 10) == (
        "the server does not have the bytes asked for\n"
        "  file    small.json\n"
        f"  url     {small}\n"
        "  answer  416 Requested Range Not Satisfiable\n\n"
        "hint: the file may have changed while it was read; run the command again"
    )


def test_no_server(hub: HubServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"http://127.0.0.1:{port}/model.safetensors"
        assert refusal(RemoteError, HttpSource, url) == (
            "the server cannot be reached\n"
            f"  url     {url}\n"
            f"  reason  [Errno {errno.ECONNREFUSED}] Connection refused\n\n"
            "hint: check the address, the network and the proxy settings"
        )


def test_no_tls(hub: HubServer, big: str) -> None:
    url = big.replace("http:", "https:")
    message = refusal(RemoteError, HttpSource, url)
    reason = message.splitlines()[2]
    assert reason.startswith("  reason  [SSL")
    assert message == (
        "a TLS connection to the server cannot be set up\n"
        f"  url     {url}\n"
        f"{reason}\n\n"
        "hint: behind a proxy with certificates of its own set SSL_CERT_FILE to its bundle"
    )


def test_offline_mode_asks_nobody(hub: HubServer, big: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(RemoteError, HttpSource, big + "?signature=secret")
    assert message == f"offline mode is on\n  url  {big}\n\nhint: unset HF_HUB_OFFLINE to reach the server"
    assert hub.seen == []


def test_redirects_in_circles(hub: HubServer) -> None:
    assert refusal(RemoteError, HttpSource, f"{hub.url}/circle") == (
        "the server redirects in circles\n"
        f"  url     {hub.url}/circle\n"
        "  reason  Exceeded maximum allowed redirects.\n\n"
        "hint: check the address"
    )


def test_a_redirect_to_another_protocol(hub: HubServer) -> None:
    message = refusal(RemoteError, HttpSource, f"{hub.url}/elsewhere")
    assert message == (
        "the server redirects to something other than http\n"
        f"  url     {hub.url}/elsewhere\n"
        "  reason  Request URL has an unsupported protocol 'ftp://'.\n\n"
        "hint: check the address"
    )


def caused(kind: str, cause: Exception) -> Exception:
    """An exception of the HTTP client that came from another one."""
    error: Exception = getattr(http_library(), kind)("all attempts failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("kind", "cause", "message", "reason", "hint"),
    [
        (
            "ConnectError",
            socket.gaierror(-2, "Name or service not known"),
            "the host name is not known",
            "[Errno -2] Name or service not known",
            "check its spelling and the network",
        ),
        (
            "ConnectError",
            ssl.SSLCertVerificationError(1, "self-signed certificate"),
            "a TLS connection to the server cannot be set up",
            "self-signed certificate",
            "behind a proxy with certificates of its own set SSL_CERT_FILE to its bundle",
        ),
        (
            "ProxyError",
            OSError("407 Proxy Authentication Required"),
            "the proxy does not let the request through",
            "407 Proxy Authentication Required",
            "check HTTPS_PROXY and NO_PROXY",
        ),
        (
            "InvalidURL",
            ValueError(),
            "the address is not a valid URL",
            "all attempts failed",
            "check the address",
        ),
    ],
)
def test_troubles_that_need_a_network(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    cause: Exception,
    message: str,
    reason: str,
    hint: str,
) -> None:
    respond_with(monkeypatch, caused(kind, cause))
    said = f"{message}\n  url     http://host/x\n  reason  {reason}\n\nhint: {hint}"
    assert refusal(RemoteError, HttpSource, "http://host/x") == said


def test_a_connection_that_is_reset_is_made_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("dovetail.store.remote.request.sleep", waited.append)
    respond_with(monkeypatch, caused("ConnectError", ConnectionResetError(errno.ECONNRESET, "reset")))
    assert refusal(RemoteError, HttpSource, "http://host/x") == (
        "the server cannot be reached\n"
        "  url     http://host/x\n"
        f"  reason  [Errno {errno.ECONNRESET}] reset\n\n"
        "hint: check the address, the network and the proxy settings"
    )
    assert len(waited) == 3


# -- what is sent


def test_the_token_goes_to_the_hub_only(hub: HubServer, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    HttpSource(small)
    HttpSource(small.replace(f"{hub.url}/files", hub.cdn))
    assert [(seen.server, seen.headers.get("authorization")) for seen in hub.seen] == [
        ("hub", f"Bearer {TOKEN}"),
        ("cdn", None),
    ]
    agents = [seen.headers["user-agent"].partition("/")[0] for seen in hub.seen]
    assert agents == ["dovetail", "dovetail"]


@pytest.mark.parametrize("token", ["hf_ü", "hf_\x07"])
def test_a_token_that_is_none(
    hub: HubServer, small: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(UsageError, HttpSource, small) == (
        "the token for the hub holds characters that no token has\n\n"
        "hint: set HF_TOKEN or run `hf auth login`"
    )


def test_a_password_is_used_and_not_shown(hub: HubServer, small: str) -> None:
    locked = small.replace("/files/", "/locked/")
    url = locked.replace("http://", "http://me:secret@")
    source = HttpSource(url + "?key=hidden")
    assert (source.name, source.read_at(0, 8)) == (locked, b'{"a": 1}')
    message = refusal(RemoteError, HttpSource, url.replace("secret", "guess"))
    assert message == (
        "the server wants a login, or does not accept the one given\n"
        f"  url     {locked}\n"
        "  answer  401 Unauthorized\n\n"
        "hint: for the hub set HF_TOKEN or run `hf auth login`; elsewhere write https://user:password@host/path"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://host/x", "ftp://host/x"),
        ("http:///x", "http:///x"),
        ("https://me:secret@host:99999/x", "https://host:99999/x"),
        ("http://[::1/x", "http://[::1/x"),
        ("http://host:0/", "http://host:0/"),
        ("model.safetensors", "model.safetensors"),
        ("", ""),
    ],
)
def test_what_is_no_address(url: str, shown: str) -> None:
    said = (
        f"`{shown}` is not the address of a web server\n\nhint: write http://host/path or https://host/path"
    )
    for ask in (check_url, HttpSource, HttpFolder, open_url):
        assert refusal(UsageError, ask, url) == said


def test_what_is_an_address() -> None:
    for url in ("http://host", "https://host:443/a/b?c#d", "http://[::1]:8000/", "HTTP://host/x"):
        check_url(url)
    assert shown_url("https://a:b@host/x@y?z=1#f") == "https://host/x@y"
