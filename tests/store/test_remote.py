"""Reading over HTTP: what is moved, what is believed, and what each failure says."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from dovetail.errors import DovetailError, FormatError, MissingError, RemoteError, UnsafeError, UsageError
from dovetail.store.remote import READ_AHEAD, HttpFolder, HttpSource, http_folder, size_of
from dovetail.store.request import check_url, http_library, shown_url
from dovetail.store.safetensors import read_safetensors
from hubserver import TOKEN, HubServer, hub_server
from sparsefile import qwen2_vl_header, write_sparse

BIG = 300_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def big(hub: HubServer) -> str:
    """The address of a file of 300,000 bytes, of which no two places look alike."""
    (hub.root / "big.bin").write_bytes(content())
    return f"{hub.url}/files/big.bin"


@pytest.fixture
def small(hub: HubServer) -> str:
    (hub.root / "small.json").write_bytes(b'{"a": 1}')
    return f"{hub.url}/files/small.json"


def content() -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in range(BIG // 4))


def refusal(kind: type[DovetailError], ask: Any, *arguments: Any) -> str:
    """The whole message of the error that a call raises, which must be of this very class."""
    with pytest.raises(kind) as caught:
        ask(*arguments)
    assert type(caught.value) is kind
    return str(caught.value)


def respond_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes every request of huggingface_hub's client end in an error."""
    from huggingface_hub import close_session, set_client_factory
    from huggingface_hub.utils import _http as settings

    def fail(request: Any) -> Any:
        raise error

    monkeypatch.setattr(settings, "_GLOBAL_CLIENT_FACTORY", settings._GLOBAL_CLIENT_FACTORY)
    close_session()
    set_client_factory(lambda: http_library().Client(transport=http_library().MockTransport(fail)))


# -- what is moved


def test_a_header_of_4_gigabytes_moves_the_header_only(hub: HubServer) -> None:
    path = hub.root / "model.safetensors"
    header = write_sparse(path, qwen2_vl_header())
    assert path.stat().st_size == 4_418_057_016
    source = HttpSource(f"{hub.url}/files/model.safetensors")
    shard = read_safetensors(source)
    assert len(shard.entries) == 729
    assert sum(entry.bytes for entry in shard.entries.values()) == 4_417_971_200
    assert shard.entries["visual.merger.mlp.2.weight"].shape == (1536, 5120)
    assert source.moved == header == 85_816
    assert hub.served == {"model.safetensors": 85_816}
    asked = [seen.headers["range"] for seen in hub.seen]
    assert asked == ["bytes=0-65535", "bytes=65536-85815"]


def test_the_count_of_moved_bytes_can_fail(hub: HubServer) -> None:
    header = write_sparse(hub.root / "model.safetensors", qwen2_vl_header())
    source = HttpSource(f"{hub.url}/files/model.safetensors")
    entry = read_safetensors(source).entries["model.layers.3.self_attn.k_proj.weight"]
    assert source.read_at(entry.start, entry.bytes) == bytes(256 * 1536 * 2)
    assert source.moved == hub.served["model.safetensors"] == header + 256 * 1536 * 2


def test_a_short_header_costs_one_request(hub: HubServer) -> None:
    shape = {"dtype": "F32", "shape": [1_000_000], "data_offsets": [0, 4_000_000]}
    write_sparse(hub.root / "model.safetensors", {"weight": shape})
    source = HttpSource(f"{hub.url}/files/model.safetensors")
    assert read_safetensors(source).entries["weight"].shape == (1_000_000,)
    assert hub.methods() == ["GET /files/model.safetensors"]
    assert source.moved == READ_AHEAD


def test_a_known_size_is_not_asked_for(hub: HubServer, big: str) -> None:
    source = HttpSource(big, size=BIG)
    assert hub.seen == []
    assert source.read_at(8, 4) == content()[8:12]
    assert source.read_at(0, 8) == content()[:8]
    assert len(hub.seen) == 2


def test_the_end_brings_what_lies_before_it(hub: HubServer, big: str) -> None:
    """A zip is read from its end, a little at a time."""
    source = HttpSource(big, size=BIG)
    assert source.read_at(BIG - 22, 22) == content()[-22:]
    assert source.read_at(BIG - 5000, 4000) == content()[-5000:-1000]
    assert [seen.headers["range"] for seen in hub.seen] == [f"bytes={BIG - READ_AHEAD}-{BIG - 1}"]


def test_reading_on_in_small_steps_asks_in_large_ones(hub: HubServer, big: str) -> None:
    source = HttpSource(big)
    assert b"".join(source.read_at(offset, 100) for offset in range(0, BIG, 100)) == content()
    assert source.moved == BIG
    assert len(hub.seen) <= 2 * BIG // READ_AHEAD + 2


def test_a_small_read_in_the_middle_moves_no_more(hub: HubServer, big: str) -> None:
    source = HttpSource(big)
    assert source.read_at(200_000, 8) == content()[200_000:200_008]
    assert source.moved == READ_AHEAD + 8


def test_what_is_held_is_not_asked_for_again(hub: HubServer, big: str) -> None:
    source = HttpSource(big)
    assert source.read_at(READ_AHEAD - 10, 100_000) == content()[READ_AHEAD - 10 : READ_AHEAD + 99_990]
    assert source.moved == READ_AHEAD + 99_990
    source.close()
    assert source.read_at(0, 8) == content()[:8]
    assert source.moved == 2 * READ_AHEAD + 99_990


@pytest.mark.parametrize("size", [0, 1, READ_AHEAD, READ_AHEAD + 1, BIG])
def test_any_reads_give_the_bytes_of_the_file(hub: HubServer, size: int) -> None:
    data = content()[:size]
    (hub.root / "file").write_bytes(data)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.booleans(), st.lists(st.tuples(st.integers(0, size + 9), st.integers(0, size + 9)), max_size=8))
    def check(is_known: bool, reads: list[tuple[int, int]]) -> None:
        source = HttpSource(f"{hub.url}/files/file", size=size if is_known else None)
        assert source.size == size
        for offset, length in reads:
            assert source.read_at(offset, length) == data[offset : offset + length]

    check()


def test_a_read_beyond_the_end_is_a_short_one(hub: HubServer, small: str) -> None:
    source = HttpSource(small)
    assert (source.size, source.read_at(6, 100), source.read_at(8, 1)) == (8, b"1}", b"")
    message = refusal(FormatError, source.exactly, 4, 8, "header")
    assert message == (
        "the file ends inside its header\n"
        f"  file      {small}\n"
        "  expected  8 bytes from offset 4\n"
        "  found     a file of 8 bytes\n\n"
        "hint: the download or copy was cut off; fetch the file again"
    )


def test_local_files_need_no_client() -> None:
    """Importing costs 0.2 s, which a header on this disk must not pay."""
    code = (
        "import sys, dovetail.store.remote, dovetail.store.hub\n"
        "print({'huggingface_hub', 'httpx', 'httpx2', 'torch', 'numpy'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


# -- what is believed


def test_a_server_without_ranges_is_not_read_to_the_end(hub: HubServer) -> None:
    write_sparse(hub.root / "model.safetensors", qwen2_vl_header())
    hub.faults.ignores_ranges = True
    url = f"{hub.url}/files/model.safetensors"
    assert refusal(RemoteError, HttpSource, url) == (
        "the server does not serve parts of a file\n"
        f"  url       {url}\n"
        "  expected  bytes 0-65535\n"
        "  found     all 4,418,057,016 bytes\n\n"
        "hint: download the file and give dovetail the local copy"
    )
    assert len(hub.seen) == 1
    assert hub.served["model.safetensors"] < 64 << 20  # what the system's buffers take in


def test_a_short_file_may_come_whole(hub: HubServer, small: str) -> None:
    hub.faults.ignores_ranges = True
    assert HttpSource(small).read_at(0, 100) == b'{"a": 1}'


def test_a_body_of_unknown_length_is_refused(hub: HubServer, small: str) -> None:
    hub.faults.ignores_ranges = hub.faults.no_length = True
    assert refusal(RemoteError, HttpSource, small) == (
        "the server does not serve parts of a file\n"
        f"  url       {small}\n"
        "  expected  bytes 0-65535\n"
        "  found     a body of unknown length\n\n"
        "hint: download the file and give dovetail the local copy"
    )


@pytest.mark.parametrize(
    "said",
    ["bytes 1-65536/300000", "bytes 0-65534/300000", "bytes 0-65535/*", "bytes 0-65535/9", "pages 1-2/3"],
)
def test_other_bytes_are_refused(hub: HubServer, big: str, said: str) -> None:
    hub.faults.wrong_range = said
    assert refusal(RemoteError, HttpSource, big) == (
        "the server sent other bytes than it was asked for\n"
        f"  url       {big}\n"
        "  expected  bytes 0-65535\n"
        f"  found     {said}\n\n"
        "hint: download the file and give dovetail the local copy"
    )


def test_a_compressed_body_is_refused(hub: HubServer, big: str) -> None:
    hub.faults.encoding = "gzip"
    assert refusal(RemoteError, HttpSource, big) == (
        "the server compresses what it was asked to send as it is\n"
        f"  url       {big}\n"
        "  expected  identity\n"
        "  found     gzip\n\n"
        "hint: download the file and give dovetail the local copy"
    )


def test_more_than_announced_is_refused(hub: HubServer, small: str) -> None:
    hub.faults.excess, hub.faults.no_length = 1, True
    source = HttpSource(small, size=8)
    assert refusal(RemoteError, source.read_at, 0, 8) == (
        "the server sent more than it announced\n"
        f"  url       {small}\n"
        "  expected  8 bytes\n"
        "  found     more\n\n"
        "hint: download the file and give dovetail the local copy"
    )


def test_another_etag_is_another_file(hub: HubServer, big: str) -> None:
    hub.faults.etags = ['"first"', '"second"']
    source = HttpSource(big)
    assert source.read_at(0, 8) == content()[:8]
    assert refusal(RemoteError, source.read_at, 200_000, 8) == (
        "the file changed on the server while it was read\n"
        f"  url       {big}\n"
        '  expected  "first"\n'
        '  found     "second"\n\n'
        "hint: run the command again"
    )


def test_a_weak_etag_is_the_same(hub: HubServer, big: str) -> None:
    hub.faults.etags = ['W/"one"', '"one"']
    assert HttpSource(big).read_at(200_000, 8) == content()[200_000:200_008]
    assert hub.faults.etags == ['"one"']


def test_another_size_is_another_file(hub: HubServer, big: str) -> None:
    source = HttpSource(big, name="big.bin", size=BIG + 1)
    assert refusal(RemoteError, source.read_at, 0, 8) == (
        "the file changed on the server while it was read\n"
        "  file      big.bin\n"
        f"  url       {big}\n"
        "  expected  300,001 bytes\n"
        "  found     300,000 bytes\n\n"
        "hint: run the command again"
    )


# -- what passes


@pytest.mark.parametrize("fault", ["cuts", "resets"])
def test_a_body_that_breaks_off_is_asked_for_again(hub: HubServer, big: str, fault: str) -> None:
    setattr(hub.faults, fault, 3)
    assert HttpSource(big).read_at(0, 8) == content()[:8]
    assert len(hub.seen) == 4


@pytest.mark.parametrize("fault", ["cuts", "resets"])
def test_a_body_that_always_breaks_off_is_an_error(hub: HubServer, big: str, fault: str) -> None:
    setattr(hub.faults, fault, 4)
    message = refusal(RemoteError, HttpSource, big)
    reason = "[Errno 104] Connection reset by peer" if fault == "resets" else message.splitlines()[2][10:]
    assert message == (
        "the connection to the server breaks off\n"
        f"  url     {big}\n"
        f"  reason  {reason}\n\n"
        "hint: try again later, or download the file and give dovetail the local copy"
    )
    assert len(hub.seen) == 4


def test_a_failing_server_is_asked_again(hub: HubServer, big: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("dovetail.store.request.DELAYS", (0.5, 1.0, 2.0))
    monkeypatch.setattr("dovetail.store.request.sleep", waited.append)
    hub.faults.statuses = [503, 503]
    assert HttpSource(big).size == BIG
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
            "  reason  [Errno 111] Connection refused\n\n"
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
    for ask in (check_url, HttpSource, HttpFolder, http_folder):
        assert refusal(UsageError, ask, url) == said


def test_what_is_an_address() -> None:
    for url in ("http://host", "https://host:443/a/b?c#d", "http://[::1]:8000/", "HTTP://host/x"):
        check_url(url)
    assert shown_url("https://a:b@host/x@y?z=1#f") == "https://host/x@y"


# -- folders


@pytest.fixture
def folder(hub: HubServer) -> HttpFolder:
    home = hub.root / "a b"
    home.mkdir()
    (home / "config.json").write_bytes(b"{}")
    index = (
        b'{"weight_map": {"x": "model-1.safetensors", "y": "sub/m-2.safetensors", "z": "lost", "q": "../q"}}'
    )
    (home / "model.safetensors.index.json").write_bytes(index)
    (home / "model-1.safetensors").write_bytes(b"one")
    (home / "sub").mkdir()
    (home / "sub" / "m-2.safetensors").write_bytes(b"second")
    (home / "unheard-of.txt").write_bytes(b"?")
    return HttpFolder(f"{hub.url}/files/a%20b/")


def test_a_folder_has_what_is_usual_and_what_its_index_names(hub: HubServer, folder: HttpFolder) -> None:
    assert folder.name == f"{hub.url}/files/a%20b/"
    expected = {
        "config.json": 2,
        "model-1.safetensors": 3,
        "model.safetensors.index.json": 98,
        "sub/m-2.safetensors": 6,
    }
    assert hub.seen == []
    assert folder.files() == expected
    assert list(folder.files()) == sorted(expected)
    asked = len(hub.seen)
    assert folder.files() == expected
    assert len(hub.seen) == asked
    assert folder.read("sub/m-2.safetensors") == b"second"
    assert folder.read("unheard-of.txt") == b"?"
    assert len(hub.seen) == asked + 2


def test_a_folder_is_not_left(hub: HubServer, folder: HttpFolder) -> None:
    assert refusal(UnsafeError, folder.open, "../secret") == (
        "`../secret` points outside the checkpoint's folder\n"
        f"  folder  {hub.url}/files/a%20b/\n\n"
        "hint: a checkpoint may only name files beside itself; do not trust this one"
    )
    # a name is a name, never an address
    assert folder._url("x:y?z#a") == f"{hub.url}/files/a%20b/x%3Ay%3Fz%23a"


def test_a_missing_file_in_a_folder(hub: HubServer, folder: HttpFolder) -> None:
    assert refusal(MissingError, folder.open, "lost") == (
        "there is no such file on the server\n"
        "  file    lost\n"
        f"  url     {hub.url}/files/a%20b/lost\n"
        "  answer  404 Not Found\n\n"
        "hint: check the spelling of the address"
    )


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b'{"weight_map": {"x": 3}}', b'{"weight_map": 1}', b"[" * 9999]
)
def test_a_malformed_index_is_left_to_its_reader(hub: HubServer, folder: HttpFolder, index: bytes) -> None:
    (hub.root / "a b" / "model.safetensors.index.json").write_bytes(index)
    assert folder.files() == {"config.json": 2, "model.safetensors.index.json": len(index)}


def test_pages_in_place_of_files_are_no_files(hub: HubServer) -> None:
    assert HttpFolder(f"{hub.url}/pages/").files() == {}
    hub.faults.head_status = 405
    assert HttpFolder(f"{hub.url}/pages/").files() == {}


@pytest.mark.parametrize("status", [403, 405, 501])
def test_where_head_is_refused_a_byte_is_asked_for(hub: HubServer, folder: HttpFolder, status: int) -> None:
    (hub.root / "a b" / "params.json").write_bytes(b"")
    hub.faults.head_status = status
    assert folder.files() == {
        "config.json": 2,
        "model-1.safetensors": 3,
        "model.safetensors.index.json": 98,
        "params.json": 0,
        "sub/m-2.safetensors": 6,
    }


def test_where_neither_head_nor_ranges_work_the_length_is_believed(hub: HubServer, small: str) -> None:
    hub.faults.head_status, hub.faults.ignores_ranges = 405, True
    assert size_of(small) == 8


def test_no_size_at_all(hub: HubServer, small: str) -> None:
    hub.faults.no_length = hub.faults.ignores_ranges = True
    assert refusal(RemoteError, size_of, small) == (
        "the server does not say how large the file is\n"
        f"  url  {small}\n\n"
        "hint: download the file and give dovetail the local copy"
    )


def test_a_folder_that_may_not_be_read(hub: HubServer, folder: HttpFolder) -> None:
    locked = HttpFolder(folder.url.replace("/files/", "/locked/"))
    assert refusal(RemoteError, locked.files) == (
        "the server wants a login, or does not accept the one given\n"
        "  file    adapter_config.json\n"
        f"  url     {hub.url}/locked/a%20b/adapter_config.json\n"
        "  answer  401 Unauthorized\n\n"
        "hint: for the hub set HF_TOKEN or run `hf auth login`; elsewhere write https://user:password@host/path"
    )
    login = HttpFolder(locked.url.replace("http://", "http://me:secret@"))
    assert login.name == locked.name
    assert login.read("config.json") == b"{}"


@pytest.mark.parametrize(
    ("url", "folder", "name"),
    [
        ("https://host/a/Qwen2.5-VL", "https://host/a/Qwen2.5-VL/", ""),
        ("https://host/a/Qwen2.5-VL/", "https://host/a/Qwen2.5-VL/", ""),
        ("https://host", "https://host/", ""),
        ("https://host/a/model.safetensors.index.json", "https://host/a/", "model.safetensors.index.json"),
        ("https://host/a%20b/my%20model.pth?x=1#y", "https://host/a%20b/", "my model.pth"),
    ],
)
def test_where_an_address_leads(url: str, folder: str, name: str) -> None:
    found, file = http_folder(url)
    assert (found.url, file) == (folder, name)


def test_the_address_given_keeps_its_signature(hub: HubServer, small: str) -> None:
    folder, name = http_folder(small + "?signature=abc")
    assert folder.open(name).read_at(0, 8) == b'{"a": 1}'
    with pytest.raises(MissingError):
        folder.open("config.json")
    assert [seen.path for seen in hub.seen] == ["/files/small.json?signature=abc", "/files/config.json"]
    assert "small.json" in folder.files()


def test_no_socket_is_left_open(hub: HubServer, big: str) -> None:
    """The server refuses nothing here; what hangs up early must not keep its connection."""
    before = len(os.listdir("/proc/self/fd"))
    hub.faults.ignores_ranges = True
    for _ in range(5):
        refusal(RemoteError, HttpSource, big)
    assert len(os.listdir("/proc/self/fd")) <= before + 4
