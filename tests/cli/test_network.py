"""`dovetail inspect hf://…` and `http://…` as a user runs them: what comes out, and how little is moved."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import dovetail as library
from commands import Answer, dovetail
from hubserver import OUTSIDER, TOKEN, HubServer

REPOSITORY = "Qwen/Qwen2-VL-2B-Instruct"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full-size checkpoints that take no room: two shards of 4.4 GB with their index, and a torch file."""
    root = tmp_path_factory.mktemp("models")
    library.make("qwen2_vl", root / "two", size="2b", sparse=True, max_shard_size=4_000_000_000)
    library.make("prismatic", root / "nested", layout="native", sparse=True)
    library.make("siglip", root / "one", size="base-patch16-224", sparse=True)
    return root


@pytest.fixture
def hub(models: Path) -> Iterator[HubServer]:
    with HubServer(models) as server:
        server.add(REPOSITORY, "two")
        yield server


def ask(hub: HubServer, *words: str, home: Path, **settings: str) -> Answer:
    """Runs a command that knows this hub and has an empty cache."""
    # an empty value is what "not set" is to huggingface_hub
    clean = {"HF_TOKEN": "", "HF_HUB_OFFLINE": "", "HTTP_PROXY": "", "http_proxy": "", "NO_PROXY": "*"}
    return dovetail(*words, **{**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **settings})


def header_sizes(folder: Path) -> dict[str, int]:
    """The bytes that lie before the first value of each safetensors file."""
    sizes = {}
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            sizes[f"{folder.name}/{path.name}"] = 8 + int.from_bytes(file.read(8), "little")
    return sizes


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_a_repository_of_the_hub_moves_headers_only(hub: HubServer, models: Path, tmp_path: Path) -> None:
    answer = ask(hub, "inspect", f"hf://{REPOSITORY}", "--json", home=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    report = json.loads(answer.out)
    assert (report["family"], report["layout"], report["whole"]) == ("qwen2_vl", "hf", True)
    assert (report["tensors"], report["parameters"], report["bytes"]) == (729, 2_208_985_600, 4_417_971_200)
    assert report["config"]["text.rope_theta"]["evidence"] == "config.json: rope_theta"
    headers = header_sizes(models / "two")
    assert len(headers) == 2
    for name, size in headers.items():
        assert size <= hub.served[name] < size + (256 << 10)
    small = {name: count for name, count in hub.served.items() if name not in headers}
    assert set(small) == {"two/model.safetensors.index.json", "two/config.json"}
    assert hub.served.total() < 1 << 20
    assert on_disk(tmp_path) < 1 << 20


@pytest.mark.parametrize(("folder", "name"), [("two", REPOSITORY), ("nested", "owner/run")])
def test_it_says_what_the_same_folder_says_on_disk(
    folder: str, name: str, hub: HubServer, models: Path, tmp_path: Path
) -> None:
    hub.add(name, folder)
    here = json.loads(dovetail("inspect", models / folder, "--json").out)
    there = json.loads(ask(hub, "inspect", f"hf://{name}", "--json", home=tmp_path).out)
    assert (here.pop("path"), there.pop("path")) == (str(models / folder), f"hf://{name}")
    assert here.pop("seconds").keys() == there.pop("seconds").keys()
    assert there == here


def test_a_web_address_of_one_file_moves_its_header_only(
    hub: HubServer, models: Path, tmp_path: Path
) -> None:
    url = f"{hub.url}/files/one/model.safetensors"
    answer = ask(hub, "inspect", url, home=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0].startswith("SigLIP")
    assert url in answer.out
    (size,) = header_sizes(models / "one").values()
    assert size <= hub.served["one/model.safetensors"] < size + (256 << 10)


def test_a_torch_file_moves_its_directory_and_its_pickle_only(
    hub: HubServer, models: Path, tmp_path: Path
) -> None:
    file = next((models / "nested").rglob("*.pt"))
    name = str(file.relative_to(models))
    answer = ask(hub, "inspect", f"{hub.url}/files/{name}", "--json", home=tmp_path)
    assert json.loads(answer.out)["family"] == "prismatic"
    assert file.stat().st_size > 4 * 10**9
    assert hub.served[name] < 1 << 20


def test_validate_asserts_across_the_network(hub: HubServer, tmp_path: Path) -> None:
    assert ask(hub, "validate", f"hf://{REPOSITORY}", "--as", "qwen2_vl/hf", home=tmp_path).code == 0
    assert ask(hub, "validate", f"hf://{REPOSITORY}", "--as", "paligemma", home=tmp_path).code == 1
    assert hub.served.total() < 2 << 20


def test_values_are_moved_when_they_are_asked_for(hub: HubServer, models: Path, tmp_path: Path) -> None:
    """So the counts above can fail."""
    url = f"{hub.url}/files/one/model.safetensors"
    answer = ask(hub, "validate", url, "--values", "--json", home=tmp_path)
    assert [f["code"] for f in json.loads(answer.out)["findings"]] == ["zeros"]
    assert hub.served["one/model.safetensors"] >= (models / "one" / "model.safetensors").stat().st_size


def test_a_revision_and_a_path_inside_are_understood(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add("owner/many", ".")
    answer = ask(hub, "inspect", f"hf://owner/many@{commit}/one", "--json", home=tmp_path)
    report = json.loads(answer.out)
    assert (report["family"], report["path"]) == ("siglip", f"hf://owner/many@{commit}/one")


@pytest.mark.parametrize("token", [TOKEN, OUTSIDER, ""])
def test_a_private_repository_opens_with_the_right_token(token: str, hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/secret", "one", private=True)
    answer = ask(hub, "inspect", "hf://me/secret", home=tmp_path, HF_TOKEN=token)
    if token == TOKEN:
        assert (answer.code, answer.err) == (0, "")
        return
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: ")
    assert "me/secret" in answer.err
    assert "HF_TOKEN" in answer.err
    assert "Traceback" not in answer.err
    assert not token or token not in answer.err


def test_a_login_on_disk_is_as_good_as_a_variable(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/secret", "one", private=True)
    (tmp_path / "token").write_text(TOKEN)
    assert ask(hub, "inspect", "hf://me/secret", home=tmp_path).code == 0


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("hf://Qwen/no-such", "Qwen/no-such"),
        (f"hf://{REPOSITORY}@no-such", "no-such"),
        (f"hf://{REPOSITORY}/no-such.safetensors", "no-such.safetensors"),
        ("hf://Qwen", "it has no name"),
    ],
)
def test_what_is_not_there_is_named(path: str, words: str, hub: HubServer, tmp_path: Path) -> None:
    answer = ask(hub, "inspect", path, home=tmp_path)
    assert answer.code in (1, 2)
    assert answer.out == ""
    assert words in answer.err.splitlines()[0] + answer.err
    assert "\nhint: " in answer.err
    assert "Traceback" not in answer.err


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("kind", ["hub", "web"])
def test_a_server_that_cannot_be_reached_is_an_error_of_one_screen(
    kind: str, hub: HubServer, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    path = "hf://owner/name" if kind == "hub" else f"{nobody}/model.safetensors"
    answer = ask(hub, "inspect", path, home=tmp_path, HF_ENDPOINT=nobody)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: ")
    assert nobody.removeprefix("http://") in answer.err
    assert "\nhint: " in answer.err
    assert len(answer.err.splitlines()) < 10


def test_offline_there_is_only_the_cache(hub: HubServer, tmp_path: Path) -> None:
    answer = ask(hub, "inspect", f"hf://{REPOSITORY}", home=tmp_path, HF_HUB_OFFLINE="1")
    assert answer.code == 1
    assert "HF_HUB_OFFLINE" in answer.err
    assert hub.seen == []


@pytest.fixture
def secret(hub: HubServer) -> Iterator[str]:
    """The address of a small checkpoint with a password in it."""
    sizes = {
        "layers": 1,
        "d_model": 32,
        "q_heads": 2,
        "kv_heads": 1,
        "head_dim": 16,
        "d_ff": 48,
        "vocab": 499,
    }
    library.make("qwen3", hub.root / "small", set={f"text.{name}": size for name, size in sizes.items()})
    yield hub.url.replace("http://", "http://me:geheim@") + "/files/small"
    shutil.rmtree(hub.root / "small")


def tell(hub: HubServer, home: Path, *words: str) -> None:
    """Runs a command, which must not say what is secret."""
    answer = ask(hub, *words, home=home)
    assert (answer.code in (0, 1, 2), "geheim" in answer.out + answer.err) == (True, False), words


def test_secrets_of_an_address_are_shown_nowhere(hub: HubServer, secret: str, tmp_path: Path) -> None:
    """A password and a signed query: whoever sees a page, a report or a certificate could use them."""
    address, folder = f"{secret}/model.safetensors?signature=geheim#geheim", f"{secret}/"
    out, config = str(tmp_path / "out"), f"{secret}/config.json?signature=geheim"
    for words in (
        ("inspect", address),
        ("inspect", f"{secret}/nothing?signature=geheim"),
        ("inspect", "HTTPS://me:geheim@host/model?signature=geheim"),
        ("inspect", "ftp://me:geheim@host/model"),
        ("validate", address, "--report", out),
        ("fingerprint", address, "--json"),
        ("diff", address, folder, "--json"),
        ("convert", address, out, "--dry-run", "--json"),
        ("convert", address, str(tmp_path / "new")),
        ("graft", address, out, "--config", config, "--dry-run", "--json"),
        ("graft", address, out, "--config", config.replace("config", "other"), "--dry-run"),
        ("stamp", address, "--out", out),
    ):
        tell(hub, tmp_path / "home", *words)
    mirror = {"HF_ENDPOINT": hub.url.replace("http://", "http://me:geheim@")}
    for name in (f"hf://{REPOSITORY}", "hf://a/nothing", "hf://a/b?c=geheim", "hf://me:geheim@a/b"):
        answer = ask(hub, "inspect", name, home=tmp_path / "home", **mirror)
        assert (answer.code in (0, 1, 2), "geheim" in answer.out + answer.err) == (True, False), name
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {*written} == {"report.json", "report.html", "dovetail.json"}
    assert [name for name, text in written.items() if b"geheim" in text] == []


@pytest.mark.slow
def test_secrets_of_an_address_are_not_in_a_verification(hub: HubServer, secret: str, tmp_path: Path) -> None:
    words = ("verify", f"{secret}/model.safetensors?signature=geheim", "--dtype", "float32", "--report")
    tell(hub, tmp_path / "home", *words, str(tmp_path / "out"))
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(written) == 2
    assert [name for name, text in written.items() if b"geheim" in text] == []
