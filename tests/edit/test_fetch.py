"""Sources that are elsewhere: a repository of the hub is downloaded first, a web server's files are refused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dovetail as package
from commands import dovetail
from files import MODELS
from hubserver import HubServer


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "www") as server:
        yield server


def repository(hub: HubServer, name: str = "owner/qwen2-vl", shard: int = 100_000) -> Path:
    folder = hub.root / "model"
    sizes = {**MODELS["qwen2_vl"][0], "text.vocab": 9001}
    package.make("qwen2_vl", folder, set=sizes, max_shard_size=shard)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "processor_config.json").write_text('{"image_processor": {"max_pixels": 5000}}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}")
    (folder / "additional_chat_templates" / "rag.sh").write_text("nobody carries this")
    (folder / "pytorch_model.bin").write_bytes(b"another copy that nobody needs")
    hub.add(name, "model")
    return folder


def settings(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def test_a_repository_is_downloaded_once_and_converted(hub: HubServer, tmp_path: Path) -> None:
    folder = repository(hub)
    local = dovetail("convert", folder, tmp_path / "local", "--to", "litgpt", "--json")
    words = ("convert", "hf://owner/qwen2-vl", tmp_path / "out", "--to", "litgpt", "--json")
    answer = dovetail(*words, **settings(hub, tmp_path))
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["fingerprint"] == json.loads(local.out)["fingerprint"]
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    assert {"lit_model.pth", "model_config.yaml", "tokenizer.json", "chat_template.jinja"} <= names
    assert {"processor_config.json", "additional_chat_templates/rag.jinja"} <= names
    assert "additional_chat_templates/rag.sh" not in names
    assert package.inspect(tmp_path / "out").config["max_pixels"].value == 5000
    assert (tmp_path / "out" / "lit_model.pth").read_bytes() == (
        tmp_path / "local" / "lit_model.pth"
    ).read_bytes()
    source = json.loads((tmp_path / "out" / "dovetail.json").read_text())["source"]
    assert (source["path"], source["commit"]) == (
        "hf://owner/qwen2-vl",
        hub.repos["owner/qwen2-vl"].refs["main"],
    )
    assert "model/pytorch_model.bin" not in hub.served
    shards = {name: count for name, count in hub.served.items() if name.endswith(".safetensors")}
    assert len(shards) > 2
    served = hub.served.copy()
    answer = dovetail(*words, "--overwrite", **settings(hub, tmp_path))
    assert answer.code == 0, answer.err
    again = {name: hub.served[name] - served[name] for name in shards}
    assert set(again.values()) == {0}, "a second run reads the cache"


def test_a_dry_run_downloads_no_weights(hub: HubServer, tmp_path: Path) -> None:
    folder = repository(hub, shard=10_000_000)
    answer = dovetail(
        "convert",
        "hf://owner/qwen2-vl",
        tmp_path / "out",
        "--to",
        "litgpt",
        "--dry-run",
        **settings(hub, tmp_path),
    )
    assert (answer.code, "lit_model.pth" in answer.out) == (0, True)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    served = sum(count for name, count in hub.served.items() if name.endswith(".safetensors"))
    assert served < size / 2
    assert not (tmp_path / "out").exists()


def test_one_file_of_a_repository(hub: HubServer, tmp_path: Path) -> None:
    folder = hub.root / "model"
    package.make("qwen3", folder, set=MODELS["qwen3"][0])
    hub.add("owner/qwen3", "model")
    words = ("convert", "hf://owner/qwen3/model.safetensors", tmp_path / "out", "--to", "litgpt")
    answer = dovetail(*words, **settings(hub, tmp_path))
    assert answer.code == 0, answer.err
    assert package.inspect(tmp_path / "out").layout == "litgpt"


def test_a_hub_that_breaks_off_is_one_error_and_the_next_run_goes_on(hub: HubServer, tmp_path: Path) -> None:
    repository(hub)
    words = ("convert", "hf://owner/qwen2-vl", tmp_path / "out", "--to", "litgpt")
    assert dovetail(*words, "--dry-run", **settings(hub, tmp_path)).code == 0
    hub.faults.statuses = [403] * 40
    answer = dovetail(*words, **settings(hub, tmp_path))
    assert (answer.code, answer.err.count("error:"), "Traceback" in answer.err) == (1, 1, False)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
    hub.faults.statuses = []
    assert dovetail(*words, **settings(hub, tmp_path)).code == 0


def test_files_of_a_web_server_are_read_for_a_plan_and_no_further(hub: HubServer, tmp_path: Path) -> None:
    package.make("qwen3", hub.root / "model", set=MODELS["qwen3"][0])
    url = f"{hub.url}/files/model/model.safetensors"
    assert dovetail("convert", url, tmp_path / "out", "--to", "litgpt", "--dry-run").code == 0
    answer = dovetail("convert", url, tmp_path / "out", "--to", "litgpt")
    assert (answer.code, "curl -LO" in answer.err) == (2, True)
    assert os.listdir(tmp_path) == ["www"]


def test_a_repository_is_compared_and_identified_where_it_is(hub: HubServer, tmp_path: Path) -> None:
    """Headers are enough for names and shapes; values stream by, and none of them stay on this machine."""
    folder = repository(hub, shard=10_000_000)
    (weights,) = folder.glob("*.safetensors")
    size, name = weights.stat().st_size, f"model/{weights.name}"
    there = settings(hub, tmp_path)
    answer = dovetail("diff", "hf://owner/qwen2-vl", folder, "--json", **there)
    assert (answer.code, json.loads(answer.out)["same"]) == (0, True)
    assert hub.served[name] < size / 2
    for words in (
        ("diff", "hf://owner/qwen2-vl", folder, "--values"),
        ("fingerprint", "hf://owner/qwen2-vl"),
    ):
        hub.served.clear()
        answer = dovetail(*words, **there)
        assert answer.code == 0, answer.err
        assert size <= hub.served[name] < 2 * size
    assert answer.out == dovetail("fingerprint", folder).out
    kept = sum(path.stat().st_size for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert kept < size / 2


def test_a_repository_that_differs_is_found(hub: HubServer, tmp_path: Path) -> None:
    folder = repository(hub)
    sizes = {**MODELS["qwen2_vl"][0], "text.vocab": 9001}
    package.make("qwen2_vl", tmp_path / "other", set=sizes, seed=1)
    words = ("diff", "hf://owner/qwen2-vl", tmp_path / "other")
    assert dovetail(*words, **settings(hub, tmp_path)).code == 0
    assert dovetail(*words, "--values", **settings(hub, tmp_path)).code == 1
    assert folder.is_dir()


def test_the_stamp_of_a_repository_goes_where_it_is_told_to(hub: HubServer, tmp_path: Path) -> None:
    folder = repository(hub)
    there = settings(hub, tmp_path)
    answer = dovetail("stamp", "hf://owner/qwen2-vl", **there)
    assert (answer.code, answer.err) == (
        2,
        "error: nothing can be written beside `hf://owner/qwen2-vl`\n\n"
        "hint: give --out FOLDER; the certificate is about this commit and fits beside a copy of it\n",
    )
    answer = dovetail("stamp", "hf://owner/qwen2-vl", "--out", tmp_path / "st", **there)
    assert answer.code == 0, answer.err
    assert os.listdir(tmp_path / "st") == ["dovetail.json"]
    said = json.loads((tmp_path / "st" / "dovetail.json").read_text())
    assert said["fingerprint"] == package.fingerprint(folder)
    assert said["source"] == {
        "path": "hf://owner/qwen2-vl",
        "commit": hub.repos["owner/qwen2-vl"].refs["main"],
        "layout": "hf",
        "verb": "stamp",
    }
    (folder / "dovetail.json").write_bytes((tmp_path / "st" / "dovetail.json").read_bytes())
    assert dovetail("validate", folder, "--values").code == 0


def test_a_repository_is_split_and_merged_back(hub: HubServer, tmp_path: Path) -> None:
    """System 2's script that downloads, converts and cuts, as one command."""
    folder = repository(hub)
    words = ("split", "hf://owner/qwen2-vl", tmp_path / "out", "--nodes", "2", "--to", "litgpt")
    answer = dovetail(*words, **settings(hub, tmp_path))
    assert answer.code == 0, answer.err
    chunks = tmp_path / "out" / "chunks" / "2nodes_finisher"
    assert {path.name for path in chunks.glob("*.pth")} == {"model_starter.pth", "model_secondary0.pth"}
    assert (tmp_path / "out" / "tokenizer.json").exists()
    merged = package.merge(tmp_path / "out", tmp_path / "merged", to="hf")
    assert merged.fingerprint == package.fingerprint(folder)


@pytest.mark.parametrize("config", ["hf://owner/qwen2-vl", "hf://owner/qwen2-vl/config.json", "URL"])
def test_donors_and_config_of_a_graft_may_be_elsewhere(config: str, hub: HubServer, tmp_path: Path) -> None:
    folder = repository(hub)
    config = f"{hub.url}/files/model/config.json" if config == "URL" else config
    words = ("graft", "hf://owner/qwen2-vl", tmp_path / "out", "--config", config)
    answer = dovetail(*words, **settings(hub, tmp_path))
    assert answer.code == 0, answer.err
    assert package.fingerprint(tmp_path / "out") == package.fingerprint(folder)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == json.loads((folder / "config.json").read_text())
    assert (tmp_path / "out" / "tokenizer.json").exists()
