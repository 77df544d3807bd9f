"""What `inspect` and `validate` print of whole and broken checkpoints, as whole pages."""

from pathlib import Path

import checkpoints as some
import pytest

import snapshots
from commands import dovetail

# page -> how the checkpoint `it` is written, the words after `dovetail`, the exit code
PAGES: dict[str, tuple[some.Build, tuple[str, ...], int]] = {
    "inspect-whole": (some.made("qwen2_vl", "hf"), ("inspect", "it"), 0),
    "validate-whole": (some.made("qwen2_vl", "hf"), ("validate", "it"), 0),
    "inspect-lost-tensor": (some.lost_tensor, ("inspect", "it"), 1),
    "validate-lost-tensor": (some.lost_tensor, ("validate", "it"), 1),
    "validate-wrong-prefix": (some.wrong_prefix, ("validate", "it"), 1),
    "validate-two-models": (some.two_models, ("validate", "it"), 1),
    "inspect-mixed-layouts": (some.mixed_layouts, ("inspect", "it"), 0),
    "inspect-save-bug": (some.made("qwen2_vl", "hf-5.5.3-bug"), ("inspect", "it"), 0),
    "inspect-unknown": (some.unknown, ("inspect", "it"), 1),
    "validate-as-another": (some.made("qwen2", "hf"), ("validate", "it", "--as", "qwen3"), 1),
    "inspect-lookalike": (some.lookalike, ("inspect", "it"), 1),
    "inspect-index": (some.index_only, ("inspect", "it/model.safetensors.index.json"), 1),
    "inspect-listing": (some.listing, ("inspect", "it"), 0),
    "inspect-shards": (some.made("qwen2", "hf", max_shard_size=100_000), ("inspect", "it"), 0),
    "inspect-pi0-openpi": (some.made("pi0", "openpi"), ("inspect", "it"), 0),
    "inspect-pi0-lerobot": (some.made("pi0", "lerobot"), ("inspect", "it"), 0),
    "inspect-resampler": (some.made("panovlm", "resampler-bare"), ("inspect", "it"), 0),
    "inspect-nested": (some.made("prismatic", "native", 3), ("inspect", "it"), 0),
    "inspect-chunks": (some.chunks, ("inspect", "it"), 0),
    "inspect-hostile-names": (some.hostile_names, ("inspect", "it"), 1),
    "validate-values": (some.made("qwen2", "hf"), ("validate", "it", "--values"), 0),
    "families": (lambda _: None, ("families",), 0),
}


@pytest.mark.parametrize("page", PAGES)
def test_page_says_this_in_every_process(page: str, tmp_path: Path) -> None:
    """Twice, because the order of a Python set of names differs between processes."""
    build, words, code = PAGES[page]
    build(tmp_path / "it")
    for seed in ("1", "4"):
        answer = dovetail(*words, cwd=tmp_path, PYTHONHASHSEED=seed)
        assert (answer.code, answer.err) == (code, "")
        snapshots.check(f"pages/{page}.txt", answer.out)


def test_every_snapshot_is_of_a_page() -> None:
    assert snapshots.names("pages") == {*PAGES, "make"}


def test_make_says_what_it_wrote(tmp_path: Path) -> None:
    words = ("make", "qwen2", "it", "--sparse", "--max-shard-size", "500MB", "--dtype", "float16")
    answer = dovetail(*words, "--set", "text.layers=1", "--set", "text.vocab=151936", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    snapshots.check("pages/make.txt", answer.out)
    assert sorted(path.name for path in (tmp_path / "it").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
