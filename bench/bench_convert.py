"""Claim: moving a checkpoint into another layout costs about what `cp` costs, in a few dozen megabytes.

Qwen2-VL-2B's shapes, 4.42 GB of random bf16: renaming within 1.4x of `cp` of the output bytes, putting
q, k and v together within 1.8x, hashes of all tensors and the final fsync included. On a text model of
1.19 GB at least 4x faster than litgpt's converter and than loading and saving with transformers, in a
thirtieth of their memory. A plan for 100,000 tensors in 200 shards in under 2 s.

    python bench/bench_convert.py [VISION_CHECKPOINT [TEXT_CHECKPOINT]]
"""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dovetail.edit.make import make
from measure import DOVETAIL, PYTHON, peak_mb, seconds, show, where

ROUNDS = 3
TRANSFORMERS = """
import sys, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
model.save_pretrained(sys.argv[2])
"""


class Job(NamedTuple):
    """A command that reads one place and writes another, which is removed before each run."""

    command: Sequence[str]
    reads: Path
    writes: Path


def drop(place: Path) -> None:
    """Takes the files of a folder out of the page cache."""
    for file in place.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(place: Path) -> None:
    """Reads the files of a folder into it."""
    for file in place.iterdir():
        with file.open("rb", buffering=0) as source:
            while source.read(8 << 20):
                pass


def remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    os.sync()


def race(jobs: Mapping[str, Job], *, is_cold: bool) -> dict[str, float]:
    """The median time of each, all taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            remove(job.writes)
            (drop if is_cold else warm)(job.reads)
            taken[name].append(seconds(job.command))
            assert job.writes.exists(), f"{name} wrote nothing"
    return {name: statistics.median(times) for name, times in taken.items()}


def peaks(jobs: Mapping[str, Job]) -> dict[str, float]:
    found = {}
    for name, job in jobs.items():
        remove(job.writes)
        found[name] = peak_mb(job.command)
        remove(job.writes)
    return found


def table(title: str, jobs: Mapping[str, Job], baseline: Mapping[str, str]) -> None:
    """Warm and cold times beside those of the job that each is measured against."""
    times = {kind: race(jobs, is_cold=kind == "cold") for kind in ("warm", "cold")}
    memory = peaks(jobs)
    rows = []
    for name in jobs:
        row = [name]
        for kind in ("warm", "cold"):
            ratio = times[kind][name] / times[kind][baseline[name]] if name in baseline else None
            row += [f"{times[kind][name]:.2f} s", f"{ratio:.2f}x" if ratio else ""]
        rows.append(
            (*row, f"{memory[name]:.0f} MB", f"{memory[name] / memory[baseline.get(name, name)]:.2f}x")
        )
    show(title, ("what", "warm", "", "cold", "", "peak memory", ""), rows)


def convert(source: Path, out: Path, *words: str) -> Job:
    return Job([DOVETAIL, "convert", str(source), str(out), *words], source, out)


def copy(source: Path, out: Path) -> Job:
    return Job(["cp", "-r", str(source), str(out)], source, out)


def bench_vision(source: Path, place: Path) -> None:
    """Against `cp` of the same bytes."""
    concat = place / "concat"
    seconds(convert(source, concat, "--to", "litgpt").command)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    grown = sum(file.stat().st_size for file in concat.glob("*.pth"))
    jobs = {
        "cp of what rename writes": copy(source, place / "a"),
        "rename: hf -> hf-4.52": convert(source, place / "b", "--to", "hf-4.52"),
        "cp of what concat writes": copy(concat, place / "c"),
        "concat: hf -> litgpt": convert(source, place / "d", "--to", "litgpt"),
    }
    table(
        f"Qwen2-VL-2B, {size / 1e9:.2f} GB; {grown / 1e9:.2f} GB with the head that LitGPT stores",
        jobs,
        {
            "rename: hf -> hf-4.52": "cp of what rename writes",
            "concat: hf -> litgpt": "cp of what concat writes",
        },
    )
    for name in ("a", "b", "c", "d", "concat"):
        remove(place / name)


def bench_text(source: Path, place: Path) -> None:
    """Against those who load the model."""
    litgpt = place / "litgpt"
    litgpt.mkdir()
    for file in source.iterdir():
        (litgpt / file.name).symlink_to(file)
    converter = [str(Path(PYTHON).with_name("litgpt")), "convert_to_litgpt", str(litgpt)]
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    jobs = {
        "dovetail: hf -> litgpt": convert(source, place / "a", "--to", "litgpt"),
        "litgpt convert_to_litgpt": Job(
            [*converter, "--model_name", "Qwen3-0.6B"], source, litgpt / "lit_model.pth"
        ),
        "dovetail: hf -> hf": convert(source, place / "b", "--to", "hf"),
        "transformers, load and save": Job(
            [PYTHON, "-c", TRANSFORMERS, str(source), str(place / "c")], source, place / "c"
        ),
    }
    table(
        f"Qwen3-0.6B, {size / 1e9:.2f} GB",
        jobs,
        {
            "litgpt convert_to_litgpt": "dovetail: hf -> litgpt",
            "transformers, load and save": "dovetail: hf -> hf",
        },
    )
    for name in ("a", "b", "c", "litgpt"):
        remove(place / name)


def bench_plan(place: Path) -> None:
    """What is known before the first byte moves."""
    source = place / "many"
    make(
        "qwen3",
        source,
        size="qwen3-0.6b",
        sizes={"text.layers": 9091},
        sparse=True,
        max_shard_size=1_438_000_000,
    )
    shards = len([*source.glob("*.safetensors")])
    rows = []
    for layout in ("hf", "litgpt"):
        command = [DOVETAIL, "convert", str(source), str(place / "x"), "--to", layout, "--dry-run"]
        taken = statistics.median(seconds(command) for _ in range(ROUNDS))
        rows.append((f"hf -> {layout}", f"{taken:.2f} s", f"{peak_mb(command):.0f} MB"))
    show(f"plan of 100,003 tensors in {shards} shards (--dry-run)", ("what", "wall", "peak memory"), rows)


def load() -> str:
    return f"load of the machine: {os.getloadavg()[0]:.1f}"


def main(given: Sequence[str]) -> None:
    print(where("blake3", "torch", "litgpt", "transformers"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        vision = Path(given[0]) if given else place / "qwen2-vl-2b"
        text = Path(given[1]) if given[1:] else place / "qwen3-0.6b"
        if not vision.exists():
            make("qwen2_vl", vision, max_shard_size=4_000_000_000)
        if not text.exists():
            make("qwen3", text, size="qwen3-0.6b")
        print(load())
        bench_plan(place)
        bench_text(text, place)
        bench_vision(vision, place)
        print(load())


if __name__ == "__main__":
    main(sys.argv[1:])
