"""A page of the hub and a folder of its cache stand for the repository that they show."""

import shutil
from pathlib import Path

import pytest

import dovetail
from dovetail.errors import MissingError, UsageError
from dovetail.store.hub_place import meant
from files import safetensors_bytes

PAGES = {
    "https://huggingface.co/Qwen/Qwen2-VL-2B": "hf://Qwen/Qwen2-VL-2B",
    "https://huggingface.co/Qwen/Qwen2-VL-2B/": "hf://Qwen/Qwen2-VL-2B",
    "http://www.huggingface.co/Qwen/Qwen2-VL-2B?library=transformers": "hf://Qwen/Qwen2-VL-2B",
    "huggingface.co/Qwen/Qwen2-VL-2B#usage": "hf://Qwen/Qwen2-VL-2B",
    "https://hf.co/Qwen/Qwen2-VL-2B": "hf://Qwen/Qwen2-VL-2B",
    "https://huggingface.co/Qwen/Qwen2-VL-2B/tree/main": "hf://Qwen/Qwen2-VL-2B@main",
    "https://huggingface.co/a/b/tree/v1.0/onnx": "hf://a/b@v1.0/onnx",
    "https://huggingface.co/a/b/tree/refs%2Fpr%2F3": "hf://a/b@refs/pr/3",
    "https://huggingface.co/a/b/blob/main/model.safetensors?raw=1": "hf://a/b@main/model.safetensors",
    "https://huggingface.co/a/b/blob/main/a%20b.pth": "hf://a/b@main/a b.pth",
}
AS_THEY_ARE = (
    "https://huggingface.co/a/b/resolve/main/model.safetensors",
    "https://example.org/a/b",
    "https://huggingface.co.example.org/a/b",
    "https://huggingface.co/a",
    "hf://a/b",
    "a/b",
)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_hub_is_the_repository(page: str) -> None:
    assert meant(page) == PAGES[page]


@pytest.mark.parametrize("text", AS_THEY_ARE)
def test_other_addresses_stay_as_they_are(text: str) -> None:
    assert meant(text) == text


def test_a_page_of_a_data_set_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is no page of a model"):
        meant("https://huggingface.co/datasets/lerobot/aloha")
    monkeypatch.chdir(tmp_path)
    Path("huggingface.co/a/b").mkdir(parents=True)  # a clone in the manner of some tools
    assert meant("huggingface.co/a/b") == "huggingface.co/a/b"


def cached(cache: Path, *commits: str, main: str | None = None) -> Path:
    """A folder as `huggingface_hub` lays it out: `refs/main`, `blobs`, links to them in `snapshots`."""
    folder = cache / "models--Qwen--Qwen2-0.5B"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "0123").write_bytes(safetensors_bytes({"a": ["F32", [2]]}))
    for commit in commits:
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "model.safetensors").symlink_to("../../blobs/0123")
    if main is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(main)
    return folder


def test_a_folder_of_the_cache_is_its_snapshot(tmp_path: Path) -> None:
    folder = cached(tmp_path, "aaa", "bbb", main="bbb")
    snapshot = folder / "snapshots" / "bbb"
    assert meant(str(folder)) == str(snapshot)
    assert meant(str(folder / "snapshots")) == str(snapshot)
    assert meant(f"{folder}/") == f"{folder}/snapshots/bbb"
    assert meant(str(snapshot)) == str(snapshot)
    report = dovetail.inspect(folder)
    assert (report.path, report.files, report.tensors) == (str(snapshot), ("model.safetensors",), 1)


def test_without_a_branch_the_one_snapshot_is_it(tmp_path: Path) -> None:
    folder = cached(tmp_path, "aaa")
    assert meant(str(folder)) == str(folder / "snapshots" / "aaa")
    (folder / "snapshots" / "bbb").mkdir()
    with pytest.raises(UsageError, match="2 snapshots") as refusal:
        meant(str(folder))
    assert refusal.value.hint == f"give one of them: {folder / 'snapshots' / 'aaa'}"
    shutil.rmtree(folder / "snapshots")
    with pytest.raises(MissingError, match="no snapshot") as missing:
        meant(str(folder))
    assert "hf://Qwen/Qwen2-0.5B" in (missing.value.hint or "")


def test_a_branch_that_names_a_place_outside_is_not_followed(tmp_path: Path) -> None:
    folder = cached(tmp_path, "aaa", main="../../..")
    assert meant(str(folder)) == str(folder / "snapshots" / "aaa")


def test_the_cache_as_a_whole_says_what_is_in_it(tmp_path: Path) -> None:
    cached(tmp_path, "aaa")
    with pytest.raises(UsageError, match="this is the hub's cache, not a model") as refusal:
        dovetail.inspect(tmp_path)
    assert refusal.value.hint == "give one: hf://Qwen/Qwen2-0.5B"
