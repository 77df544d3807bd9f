"""Claim: moving a checkpoint into another layout costs about what `cp` costs, in a few dozen megabytes.

Qwen2-VL-2B's shapes, 4.42 GB of random bf16: renaming and splitting within 1.4x of `cp` of the output
bytes, putting q, k and v together within 1.8x, hashes of all tensors included. On a text model of 1.19 GB
at least 4x faster than litgpt's converter and than loading and saving with transformers, in a thirtieth
of their memory. Like is measured against like: `cp`, litgpt and transformers leave it to the system when
the bytes reach the disk, as dovetail does with `--no-sync`; what dovetail writes otherwise is on the disk
when it returns, as after `cp` and then `sync`. A plan for 100,000 tensors in 200 shards in under 2 s.

    python bench/bench_convert.py [--only plan|text|vision|split] [--rounds N] …

A command that fails is named below its table, the others are measured, and the exit code is 1.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dovetail.edit.make import make
from measure import (
    DOVETAIL,
    PYTHON,
    TINY_QWEN2_VL,
    CommandFailed,
    Row,
    has,
    peak_mb,
    seconds,
    show,
    sized,
    where,
)

LIMIT = """
Without --no-sync, what dovetail writes is on the disk when it returns, and the disk is what holds it back:
compare `cp, then sync`. docs/decisions/0008-writing.md has what was tried.
"""
TRANSFORMERS = """
import sys, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
model.save_pretrained(sys.argv[2])
"""
# What `litgpt convert_to_litgpt` calls, without the command line around it: that one imports trainers,
# servers and a web client, which would count against it here, and must all be installed.
LITGPT = """
import sys
from pathlib import Path
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
convert_hf_checkpoint(Path(sys.argv[1]), model_name=sys.argv[2])
"""


class Job(NamedTuple):
    """A command that reads one place and writes another, which is removed after each run.

    `beside` is the job that it is measured against: its own time is given as a multiple of that one's.
    """

    command: Sequence[str]
    reads: Path
    writes: Path
    beside: str = ""


class Measured(NamedTuple):
    """The median times of a job in seconds, and its peak memory in MB."""

    warm: float
    cold: float
    peak: float


def files_in(place: Path) -> list[Path]:
    return [file for file in place.rglob("*") if file.is_file()]


def drop(place: Path) -> None:
    """Takes the files of a folder out of the page cache."""
    for file in files_in(place):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(place: Path) -> None:
    """Reads the files of a folder into it."""
    for file in files_in(place):
        with file.open("rb", buffering=0) as source:
            while source.read(8 << 20):
                pass


def remove(place: Path) -> None:
    """Removes a file or a folder; what the disk still has to write is written before anyone is timed."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    os.sync()


def once(job: Job, prepare: Callable[[Path], None], measure: Callable[[Sequence[str]], float]) -> float:
    """One run of a job.

    Raises:
        CommandFailed: the command did not end well, or wrote nothing.
    """
    prepare(job.reads)
    try:
        figure = measure(job.command)
        if not job.writes.exists():
            raise CommandFailed(f"it wrote no {job.writes.name}")
    finally:
        remove(job.writes)
    return figure


def race(jobs: Mapping[str, Job], rounds: int) -> tuple[dict[str, Measured], dict[str, str]]:
    """The figures of each job, all taking turns; and what those said that failed."""
    times: dict[str, dict[Callable[[Path], None], list[float]]] = {
        name: {warm: [], drop: []} for name in jobs
    }
    peaks, failures = {}, {}
    for prepare in (warm, drop):
        for turn in range(rounds):
            for name, job in jobs.items():
                if name in failures:
                    continue
                try:
                    times[name][prepare].append(once(job, prepare, seconds))
                    if turn == 0 and prepare is warm:
                        peaks[name] = once(job, prepare, peak_mb)
                except CommandFailed as error:
                    failures[name] = str(error)
    middle = statistics.median
    found = {
        name: Measured(middle(of[warm]), middle(of[drop]), peaks[name])
        for name, of in times.items()
        if name not in failures
    }
    return found, failures


def table(title: str, jobs: Mapping[str, Job], rounds: int) -> bool:
    """Prints warm and cold times beside those of the job that each is measured against; whether all ran."""
    found, failures = race(jobs, rounds)
    rows: list[Row] = []
    for name, one in found.items():
        base = found.get(jobs[name].beside)
        ratios = [f"{a / b:.2f}x" for a, b in zip(one, base, strict=True)] if base else [""] * 3
        rows.append(
            (
                name,
                f"{one.warm:.2f} s",
                ratios[0],
                f"{one.cold:.2f} s",
                ratios[1],
                f"{one.peak:.0f} MB",
                ratios[2],
            )
        )
    show(f"{title}; median of {rounds}; {load()}", ("what", "warm", "", "cold", "", "peak memory", ""), rows)
    for name, said in failures.items():
        print(f"  FAILED: {name}: {said}")
    return not failures


def convert(source: Path, out: Path, *words: str, beside: str = "") -> Job:
    return Job([DOVETAIL, "convert", str(source), str(out), *words], source, out, beside)


def copy(source: Path, out: Path) -> Job:
    return Job(["cp", "-r", str(source), str(out)], source, out)


def durable_copy(source: Path, out: Path, beside: str) -> Job:
    """A copy that is on the disk when it returns, as what dovetail writes is."""
    script = 'cp -r "$1" "$2" && find "$2" -type f -exec sync {} +'
    return Job(["sh", "-c", script, "sh", str(source), str(out)], source, out, beside)


def size_of(place: Path) -> str:
    """The bytes of the weights in a folder."""
    kinds = (".safetensors", ".pth")
    return f"{sum(file.stat().st_size for file in place.rglob('*') if file.suffix in kinds) / 1e9:.2f} GB"


def bench_vision(source: Path, place: Path, rounds: int) -> bool:
    """Against `cp` of the same bytes."""
    concat = place / "concat"
    seconds(convert(source, concat, "--to", "litgpt").command)
    jobs = {
        "cp of what rename writes": copy(source, place / "a"),
        "rename: hf -> hf-4.52, --no-sync": convert(
            source, place / "b", "--to", "hf-4.52", "--no-sync", beside="cp of what rename writes"
        ),
        "cp, then sync": durable_copy(source, place / "a", "cp of what rename writes"),
        "rename: hf -> hf-4.52": convert(
            source, place / "b", "--to", "hf-4.52", beside="cp of what rename writes"
        ),
        "cp of what concat writes": copy(concat, place / "c"),
        "concat: hf -> litgpt, --no-sync": convert(
            source, place / "d", "--to", "litgpt", "--no-sync", beside="cp of what concat writes"
        ),
        "cp, then sync, of what concat writes": durable_copy(concat, place / "c", "cp of what concat writes"),
        "concat: hf -> litgpt": convert(
            source, place / "d", "--to", "litgpt", beside="cp of what concat writes"
        ),
    }
    title = f"Qwen2-VL-2B, {size_of(source)}; {size_of(concat)} with the head that LitGPT stores"
    is_good = table(title, jobs, rounds)
    remove(concat)
    return is_good


def bench_split(source: Path, place: Path, rounds: int) -> bool:
    """Against `cp` of what lies in the folders of the nodes."""
    parts, out = place / "parts", place / "nodes"

    def split(to: Path, *words: str) -> list[str]:
        return [DOVETAIL, "split", str(source), str(to), "--nodes", "2", *words]

    seconds(split(parts))
    jobs = {
        "cp of what split writes": copy(parts, place / "copy"),
        "split: two nodes, --no-sync": Job(split(out, "--no-sync"), source, out, "cp of what split writes"),
        "cp, then sync": durable_copy(parts, place / "copy", "cp of what split writes"),
        "split: two nodes": Job(split(out), source, out, "cp of what split writes"),
    }
    title = f"Qwen2-VL-2B over two nodes, {size_of(source)} -> {size_of(parts)}"
    is_good = table(title, jobs, rounds)
    remove(parts)
    return is_good


def bench_text(source: Path, place: Path, rounds: int) -> bool:
    """Against those who load the model."""
    litgpt = place / "litgpt"
    litgpt.mkdir()
    for file in source.iterdir():
        (litgpt / file.name).symlink_to(file)
    converter = [PYTHON, "-c", LITGPT, str(litgpt), "Qwen3-0.6B"]
    loader = [PYTHON, "-c", TRANSFORMERS, str(source), str(place / "c")]
    to_litgpt, to_hf = "hf -> litgpt, --no-sync", "hf -> hf, --no-sync"
    jobs = {
        to_litgpt: convert(source, place / "a", "--to", "litgpt", "--no-sync"),
        "hf -> litgpt": convert(source, place / "a", "--to", "litgpt", beside=to_litgpt),
        "litgpt's converter": Job(converter, source, litgpt / "lit_model.pth", to_litgpt),
        to_hf: convert(source, place / "b", "--to", "hf", "--no-sync"),
        "hf -> hf": convert(source, place / "b", "--to", "hf", beside=to_hf),
        "cp": Job(["cp", "-r", str(source), str(place / "d")], source, place / "d", to_hf),
        "cp, then sync": durable_copy(source, place / "d", to_hf),
        "transformers, load and save": Job(loader, source, place / "c", to_hf),
    }
    if not has("litgpt"):
        del jobs["litgpt's converter"]
    is_good = table(f"Qwen3-0.6B, {size_of(source)}", jobs, rounds)
    remove(litgpt)
    return is_good


def bench_plan(place: Path, rounds: int) -> bool:
    """What is known before the first byte moves."""
    source = place / "many"
    make(
        "qwen3",
        source,
        size="qwen3-0.6b",
        set={"text.layers": sized(9091, 30)},
        sparse=True,
        max_shard_size=1_380_000_000,
    )
    shards = len([*source.glob("*.safetensors")])
    rows = []
    for layout in ("hf", "litgpt"):
        command = [DOVETAIL, "convert", str(source), str(place / "x"), "--to", layout, "--dry-run"]
        taken = statistics.median(seconds(command) for _ in range(rounds))
        rows.append((f"hf -> {layout}", f"{taken:.2f} s", f"{peak_mb(command):.0f} MB"))
    title = f"plan of 100,003 tensors in {shards} shards (--dry-run); {load()}"
    show(title, ("what", "wall", "peak memory"), rows)
    remove(source)
    return True


def load() -> str:
    return f"load of the machine {os.getloadavg()[0]:.1f}"


def asked() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("plan", "text", "vision", "split"), action="append")
    parser.add_argument("--vision", type=Path, help="a Qwen2-VL-2B in the hf layout; made if not given")
    parser.add_argument("--text", type=Path, help="a Qwen3-0.6B in the hf layout; made if not given")
    parser.add_argument("--rounds", type=int, default=sized(3, 1), help="turns of each command (3)")
    return parser.parse_args()


def main() -> int:
    """Runs what is asked for; 1 if a command failed."""
    words = asked()
    only = words.only or ["plan", "text", "vision", "split"]
    print(where("blake3", "safetensors", "torch", "litgpt", "transformers"), flush=True)
    is_good = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        vision, text = words.vision or place / "qwen2-vl-2b", words.text or place / "qwen3-0.6b"
        if not vision.exists() and {"vision", "split"} & {*only}:
            make("qwen2_vl", vision, set=sized({}, TINY_QWEN2_VL), max_shard_size=4_000_000_000)
        if not text.exists() and "text" in only:
            make("qwen3", text, size="qwen3-0.6b", set=sized({}, {"text.layers": 1, "text.vocab": 1000}))
        benches = {
            "plan": lambda: bench_plan(place, words.rounds),
            "text": lambda: bench_text(text, place, words.rounds),
            "vision": lambda: bench_vision(vision, place, words.rounds),
            "split": lambda: bench_split(vision, place, words.rounds),
        }
        for name in only:
            try:
                is_good.append(benches[name]())
            except CommandFailed as error:
                print(f"\nFAILED: {name}: {error}")
                is_good.append(False)
            sys.stdout.flush()
    if {*only} - {"plan"}:
        print(LIMIT)
    return 0 if all(is_good) else 1


if __name__ == "__main__":
    sys.exit(main())
