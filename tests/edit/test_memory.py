"""The memory that a run takes, as the system sees it, against the bound that it prints before it starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dovetail
from commands import surroundings

# The watcher is small: a process begins its life with the memory of the one that forked it.
WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
MIB = 1 << 20


def peak(*words: str | Path) -> int:
    """Peak resident bytes of one command."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", WATCH, sys.executable, "-m", "dovetail", *map(str, words)],
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def bound(*words: str | Path) -> int:
    """What the plan promises."""
    done = subprocess.run(
        [sys.executable, "-m", "dovetail", *map(str, words), "--dry-run", "--json"],
        env=surroundings(),
        capture_output=True,
        text=True,
        check=True,
    )
    memory: int = json.loads(done.stdout)["memory"]
    return memory


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """340 MB of random values, with a token table of 246 MB: held as a whole, it breaks every bound."""
    folder = tmp_path_factory.mktemp("real") / "qwen3"
    dovetail.make("qwen3", folder, size="qwen3-0.6b", set={"text.layers": 3, "text.vocab": 120_001})
    return folder


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4.4 GB that take no room."""
    folder = tmp_path_factory.mktemp("sparse") / "qwen2-vl"
    dovetail.make("qwen2_vl", folder, sparse=True)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("--format", "pth"),
        ("--to", "litgpt"),
        ("--to", "litgpt-legacy", "--max-shard-size", "100MB", "--format", "safetensors"),
        ("--to", "litgpt", "--pad-vocab", "1024"),
        ("--dtype", "float16"),
    ],
)
def test_a_real_checkpoint_stays_within_the_bound(words: tuple[str, ...], real: Path, tmp_path: Path) -> None:
    promised = bound("convert", real, tmp_path / "out", *words)
    assert peak("convert", real, tmp_path / "out", *words) <= promised
    assert promised <= 97 * MIB


@pytest.mark.parametrize("layout", ["hf-4.52", "litgpt"])
def test_a_large_checkpoint_takes_no_more(layout: str, sparse: Path, tmp_path: Path) -> None:
    promised = bound("convert", sparse, tmp_path / "out", "--to", layout)
    assert peak("convert", sparse, tmp_path / "out", "--to", layout) <= promised <= 97 * MIB


@pytest.mark.slow
def test_many_tensors_are_in_the_bound(tmp_path: Path) -> None:
    sizes = {"text.layers": 1500, "text.d_model": 64, "text.d_ff": 64, "text.vocab": 100}
    dovetail.make("qwen3", tmp_path / "a", set=sizes, sparse=True)
    promised = bound("convert", tmp_path / "a", tmp_path / "out", "--to", "litgpt")
    assert peak("convert", tmp_path / "a", tmp_path / "out", "--to", "litgpt") <= promised


@pytest.mark.slow
def test_a_grid_that_is_interpolated_is_in_the_bound(tmp_path: Path) -> None:
    """The old table is held as it is stored, the new one not at all: 34 and 120 MB."""
    sizes = {"vision.layers": 1, "vision.d_vision": 1024, "vision.heads": 4, "vision.d_ff": 64}
    for name, side in (("tower", 128), ("like", 242)):
        made = {**sizes, "vision.positions": side**2}
        dovetail.make("siglip", tmp_path / name, set=made, sparse=name == "like")
    words = ("graft", tmp_path / "tower", tmp_path / "out", "--config", tmp_path / "like", "--interpolate")
    promised, table = bound(*words), 2 * 128**2 * 1024
    assert peak(*words) <= promised
    assert table + 96 * MIB < promised < 97 * MIB + 2 * table


def test_what_begins_fresh_is_in_the_bound(tmp_path: Path) -> None:
    sizes = {"text.layers": 1, "text.d_model": 1024, "text.q_heads": 8, "text.kv_heads": 2}
    dovetail.make("qwen2", tmp_path / "lm", set={**sizes, "text.vocab": 1000})
    dovetail.make("qwen2", tmp_path / "like", set={**sizes, "text.vocab": 50_000}, sparse=True)
    config = tmp_path / "like" / "config.json"
    words = ("graft", tmp_path / "lm", tmp_path / "out", "--config", config, "--resize-vocab", "50000")
    assert peak(*words) <= bound(*words) <= 105 * MIB


def test_views_that_must_be_put_in_order_are_in_the_bound(tmp_path: Path) -> None:
    """torch.save keeps the strides of a transposed tensor; such a one is read as a whole, once."""
    import torch
    from safetensors.torch import load_file

    sizes = {
        "text.layers": 1,
        "text.d_model": 1024,
        "text.q_heads": 8,
        "text.kv_heads": 2,
        "text.vocab": 9001,
    }
    dovetail.make("qwen3", tmp_path / "a", set=sizes)
    state = load_file(tmp_path / "a" / "model.safetensors")
    turned = {
        name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in state.items()
    }
    (tmp_path / "b").mkdir()
    torch.save(turned, tmp_path / "b" / "pytorch_model.bin")
    (tmp_path / "b" / "config.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
    words = ("--to", "litgpt-legacy")
    promised = bound("convert", tmp_path / "b", tmp_path / "out", *words)
    assert peak("convert", tmp_path / "b", tmp_path / "out", *words) <= promised
    assert promised > 3 * 2 * 9001 * 1024
    dovetail.convert(tmp_path / "out", tmp_path / "back", to="hf")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)
