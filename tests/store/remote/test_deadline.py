"""Servers that never come to an end, or send what nobody asked for: each is left in time."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dovetail.errors import RemoteError
from dovetail.store.remote.deadline import OutOfTime, each, within
from dovetail.store.remote.http import HttpFolder, HttpSource, size_of
from dovetail.store.remote.hub import HubFolder
from hubserver import HubServer, hub_server, refusal
from rawserver import Script, raw_server

BLOCK = bytes(1 << 20)
PART = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-7/8\r\nContent-Length: 8\r\n\r\n"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("dovetail.store.remote.request.LONGEST", 0.5)
    with hub_server(tmp_path, monkeypatch) as server:
        yield server


def slowly(data: bytes, *, first: bytes = b"") -> Script:
    def script(path: str, send: Callable[[bytes], None], over: threading.Event) -> None:
        send(first)
        for byte in data * 1000:
            if over.wait(0.1):
                return
            send(bytes([byte]))

    return script


def for_ever(data: bytes) -> Script:
    def script(path: str, send: Callable[[bytes], None], over: threading.Event) -> None:
        while not over.wait(0.01):
            send(data)

    return script


def mute(path: str, send: Callable[[bytes], None], over: threading.Event) -> None:
    over.wait(30)


ENDLESS = {
    "a body": slowly(b"a", first=PART.replace(b"0-7/8", b"0-65535/65536").replace(b": 8\r", b": 65536\r")),
    "a header": slowly(b"a", first=b"HTTP/1.1 200 OK\r\nX: "),
    "a status": slowly(b"H"),
    "informational answers": for_ever(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "the body of a redirect": slowly(
        b"a", first=b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 1000\r\n\r\n"
    ),
    "nothing": mute,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_server_that_never_ends_is_left(kind: str) -> None:
    with raw_server(ENDLESS[kind]) as server:
        started = time.monotonic()
        message = refusal(RemoteError, lambda: HttpSource(f"{server.url}/x"))
        assert time.monotonic() - started < 8
    assert re.fullmatch(
        "the server does not finish in time\n"
        rf"  url     {server.url}/x\n"
        r"  reason  not done after \d s\n\n"
        "hint: try again, or download the file and give dovetail the local copy",
        message,
    )


@pytest.mark.parametrize("kind", ["a body", "informational answers"])
def test_a_hub_that_never_ends_is_left(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = slowly(b"[", first=b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    with raw_server(whole if kind == "a body" else ENDLESS[kind]) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        message = refusal(RemoteError, HubFolder("owner/name").files)
    assert message.startswith("the server does not finish in time\n")


def test_a_download_that_never_ends_is_left_and_hung_up_on(hub: HubServer) -> None:
    """What huggingface_hub does by itself has no end of its own: each byte gives it ten more seconds."""
    (hub.root / "model").mkdir()
    (hub.root / "model" / "model.safetensors").write_bytes(b"12345678")
    hub.add("owner/name", "model")
    folder = HubFolder("owner/name")
    folder.files()
    hub.faults.delay = threading.Event()
    started = time.monotonic()
    message = refusal(RemoteError, folder.download, "model.safetensors")
    assert time.monotonic() - started < 5
    assert message == (
        "the server does not finish in time\n"
        "  file        model.safetensors\n"
        "  repository  hf://owner/name\n"
        "  reason      not done after 1 s\n\n"
        "hint: try again, or download the file and give dovetail the local copy"
    )
    for _ in range(50):  # its thread ends, so that nobody holds the lock in the cache
        if not any(thread.daemon and "run" in thread.name for thread in threading.enumerate()):
            break
        time.sleep(0.1)
    hub.faults.delay.set()
    hub.faults.delay = None
    assert Path(folder.download("model.safetensors")).read_bytes() == b"12345678"


@pytest.mark.slow
def test_sizes_are_asked_for_in_bounded_time() -> None:
    with raw_server(mute) as server:
        started = time.monotonic()
        message = refusal(RemoteError, HttpFolder(f"{server.url}/a/").files)
        assert message.startswith("the server does not finish in time\n  file    adapter_config.json\n")
        assert time.monotonic() - started < 10


def test_what_is_left_is_hung_up_on_and_others_ask_again(hub: HubServer) -> None:
    (hub.root / "x").write_bytes(b"12345678")
    with raw_server(ENDLESS["informational answers"]) as server:
        refusal(RemoteError, lambda: HttpSource(f"{server.url}/x"))
        before = list(server.sent)
        time.sleep(0.3)
        # it cannot send any longer: the connection is closed
        assert [after - sent < 5000 for after, sent in zip(server.sent, before, strict=True)] == [True]
    assert HttpSource(f"{hub.url}/files/x").read_at(0, 8) == b"12345678"


def test_the_body_of_a_redirect_is_not_read() -> None:
    def script(path: str, send: Callable[[bytes], None], over: threading.Event) -> None:
        if path == "/there":
            return send(PART + b"12345678")
        send(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 5000000000\r\n\r\n")
        for _ in range(5000):
            send(BLOCK)
        return None

    with raw_server(script) as server:
        assert HttpSource(f"{server.url}/here").read_at(0, 8) == b"12345678"
    assert server.asked == ["/here", "/there"]
    assert server.sent[0] < 30 * len(BLOCK)  # what the two ends of a connection hold back


@pytest.mark.parametrize(
    "answer",
    [
        PART.replace(b"0-7/8", b"0-7/" + b"9" * 5000),
        PART.replace(b"0-7/8", "0-7/²".encode()),
        PART.replace(b"Length: 8", b"Length: " + b"9" * 19).replace(b"206", b"200"),
        PART.replace(b"Length: 8", b"Length: " + b"9" * 5000),
        PART.replace(b"Length: 8", "Length: ²".encode()).replace(b"206", b"200"),
        b"HTTP/1.1 302 Found\r\nLocation: http://xn--" + b"a" * 300 + b"/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://a:99999/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 \xb2\r\nLocation: /" + b"a" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 No\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_odd_numbers_and_addresses_of_a_server_are_an_error(answer: bytes) -> None:
    def script(path: str, send: Callable[[bytes], None], over: threading.Event) -> None:
        send(answer)

    with raw_server(script) as server:
        for ask in (HttpSource, size_of):
            with pytest.raises(RemoteError) as caught:
                ask(f"{server.url}/x")
            assert len(str(caught.value)) < 1500


def test_an_overlong_host_is_an_error() -> None:
    for ask in (HttpSource, size_of):
        assert refusal(RemoteError, lambda ask=ask: ask("http://xn--" + "a" * 300 + "/x")).startswith(
            "the host of the address is no domain name\n"
        )


@pytest.mark.parametrize("name", ["adapter_config.json", ""])
def test_ctrl_c_ends_a_command_at_a_mute_server(name: str) -> None:
    with raw_server(mute) as server:
        command = [sys.executable, "-m", "dovetail", "inspect", f"{server.url}/a/{name}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(300):
            if server.asked:
                break
            time.sleep(0.1)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        said = process.communicate(timeout=30)[0]
        assert time.monotonic() - started < 5
    assert (process.returncode, b"Traceback" in said) == (130, False)


def test_work_within_its_time_gives_or_raises() -> None:
    assert within(5, lambda waiter: waiter.has_left) is False
    with pytest.raises(ZeroDivisionError):
        within(5, lambda _: 1 // 0)
    with pytest.raises(OutOfTime, match="not done after 0 s"):
        within(0.01, lambda _: time.sleep(0.2))


def test_each_gives_results_in_order_or_the_first_error() -> None:
    assert each(lambda number: number * 2, range(20), at_once=3) == list(range(0, 40, 2))
    assert each(str, (), at_once=3) == []
    with pytest.raises(ValueError, match="'b'"):
        each(int, ["1", "b", "c"], at_once=3)
