"""Runs that are started to be disturbed: their sizes, how they are watched and ended, what they leave."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

from commands import surroundings

# About 100 MB over three shards: enough for a run to be caught in the middle of any of them.
SIZES = {
    "text.layers": 3,
    "text.d_model": 1024,
    "text.q_heads": 8,
    "text.kv_heads": 2,
    "text.head_dim": 128,
    "text.d_ff": 3072,
    "text.vocab": 7001,
}
SMALL = {**SIZES, "text.d_model": 64, "text.d_ff": 96, "text.vocab": 211, "text.head_dim": 16}
TO = {
    "hf": ("--to", "hf", "--max-shard-size", "40MB"),
    "litgpt": ("--to", "litgpt"),
    "cast": ("--to", "litgpt-legacy", "--format", "safetensors", "--dtype", "float32", "--pad-vocab", "512"),
}


def digests(folder: Path) -> dict[str, str]:
    """Every file by its hash."""
    return {
        path.name: hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def started(*words: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dovetail", *map(str, words)],
        cwd=cwd,
        env=surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is there, or the process is gone."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.0005)


def wait_for_lines(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until a journal is that long, or the process is gone."""
    wait_for(journal, process)
    while process.poll() is None and journal.exists() and journal.read_bytes().count(b"\n") < count:
        time.sleep(0.0005)


def end_with(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, said = process.communicate()
    return process.returncode, said
