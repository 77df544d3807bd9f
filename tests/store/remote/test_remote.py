"""Reading over HTTP: what is moved, what is believed, and what each failure says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.errors import FormatError, MissingError, RemoteError, UnsafeError
from dovetail.store.open import open_checkpoint
from dovetail.store.remote.http import READ_AHEAD, HttpFolder, HttpSource, open_url, size_of
from dovetail.store.safetensors.read import read_safetensors
from hubserver import HubServer, hub_server, refusal
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


def test_the_beginning_stays_held(hub: HubServer, big: str) -> None:
    source = HttpSource(big)
    assert source.read_at(200_000, 8) == source.read_at(200_000, 8)
    assert source.read_at(100, 8) == content()[100:108]
    assert len(hub.seen) == 2


def test_what_is_held_is_not_asked_for_again(hub: HubServer, big: str) -> None:
    source = HttpSource(big)
    assert source.read_at(READ_AHEAD - 10, 100_000) == content()[READ_AHEAD - 10 : READ_AHEAD + 99_990]
    assert source.moved == READ_AHEAD + 99_990
    source.close()
    assert source.read_at(READ_AHEAD - 8, 8) == content()[READ_AHEAD - 8 : READ_AHEAD]
    assert source.moved == READ_AHEAD + 99_990


@pytest.mark.parametrize("size", [0, 1, READ_AHEAD, READ_AHEAD + 1, BIG])
def test_any_reads_give_the_bytes_of_the_file(hub: HubServer, size: int) -> None:
    data = content()[:size]
    (hub.root / "file").write_bytes(data)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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
        "import sys, dovetail.store.remote.http, dovetail.store.remote.hub\n"
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
    [
        "bytes 1-65536/300000",
        "bytes 1-65535/300000",
        "bytes 0-65534/300000",
        "bytes 0-65535/*",
        "bytes 0-65535/9",
        "pages 1-2/3",
    ],
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


def test_bytes_from_nowhere_are_refused(hub: HubServer, big: str) -> None:
    hub.faults.no_range = True
    message = refusal(RemoteError, HttpSource, big)
    assert "\n  expected  bytes 0-65535\n  found     no Content-Range\n" in message


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


def test_an_answer_without_etag_does_not_make_it_forgotten(hub: HubServer, big: str) -> None:
    hub.faults.etags = ['"first"', "", '"second"']
    source = HttpSource(big)
    assert source.read_at(200_000, 8) == content()[200_000:200_008]
    assert refusal(RemoteError, source.read_at, 250_000, 8).startswith("the file changed on the server")


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
    assert [method for method in hub.methods() if not method.startswith("HEAD ")] == [
        "GET /files/a%20b/model.safetensors.index.json"
    ]
    assert folder.read("sub/m-2.safetensors") == b"second"
    assert folder.read("unheard-of.txt") == b"?"
    assert len(hub.seen) == asked + 2


def test_a_file_opened_again_is_the_same_one(hub: HubServer, folder: HttpFolder) -> None:
    (hub.root / "a b" / "model-1.safetensors").write_bytes(content())
    hub.faults.etags = ['"first"']
    source = folder.open("model-1.safetensors")
    source.close()
    assert folder.open("model-1.safetensors").read_at(0, 8) == content()[:8]
    assert len(hub.seen) == 1
    hub.faults.etags = ['"second"']
    again = folder.open("model-1.safetensors")
    message = refusal(RemoteError, again.read_at, 200_000, 8)
    assert message.startswith("the file changed on the server while it was read\n")


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
    found, file = open_url(url)
    assert (found.url, file) == (folder, name)


def test_the_address_given_keeps_its_signature(hub: HubServer, small: str) -> None:
    folder, name = open_url(small + "?signature=abc")
    assert folder.open(name).read_at(0, 8) == b'{"a": 1}'
    with pytest.raises(MissingError):
        folder.open("config.json")
    assert [seen.path for seen in hub.seen] == ["/files/small.json?signature=abc", "/files/config.json"]
    assert "small.json" in folder.files()


def test_no_socket_is_left_open(hub: HubServer, big: str) -> None:
    """The server refuses nothing here; what hangs up early must not keep its connection."""
    before = len(os.listdir("/dev/fd"))
    hub.faults.ignores_ranges = True
    for _ in range(5):
        refusal(RemoteError, HttpSource, big)
    assert len(os.listdir("/dev/fd")) <= before + 4


def test_a_sharded_checkpoint_moves_its_headers_only(hub: HubServer) -> None:
    """From the address to the tensors, as `dovetail inspect` goes."""
    (hub.root / "qwen").mkdir()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        part = {"dtype": "BF16", "shape": [1_000_000_000], "data_offsets": [0, 2_000_000_000]}
        write_sparse(hub.root / "qwen" / name, {f"part.{number}": part})
    index = {
        "metadata": {"total_size": 4_000_000_000},
        "weight_map": {"part.0": names[0], "part.1": names[1]},
    }
    (hub.root / "qwen" / "model.safetensors.index.json").write_text(json.dumps(index))
    for url in (f"{hub.url}/files/qwen", f"{hub.url}/files/qwen/model.safetensors.index.json"):
        hub.served.clear()
        with open_checkpoint(url) as store:
            assert sorted(store.entries) == ["part.0", "part.1"]
            assert [finding.code for finding in store.findings] == []
            assert [hub.served[f"qwen/{name}"] for name in names] == [READ_AHEAD, READ_AHEAD]
