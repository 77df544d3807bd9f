"""What every bench shares: running a command, its time and peak memory, and a table that says where.

With `--short` every bench does everything once with little, to see that it runs (tests/test_benches.py).
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

PYTHON = sys.executable
DOVETAIL = str(Path(sys.executable).with_name("dovetail"))

Row = tuple[str, ...]
T = TypeVar("T")
IS_SHORT = "--short" in sys.argv
if IS_SHORT:
    sys.argv.remove("--short")
# A Qwen2-VL with all its tokens and little else.
TINY_QWEN2_VL: dict[str, int | str] = {
    "text.layers": 2,
    "text.d_model": 256,
    "text.q_heads": 2,
    "text.kv_heads": 1,
    "text.d_ff": 96,
    "vision.layers": 1,
    "vision.d_vision": 32,
    "vision.heads": 2,
    "vision.d_ff": 64,
}


def sized(full: T, short: T) -> T:
    """What a bench measures, or the little that shows that it runs."""
    return short if IS_SHORT else full


# Peak memory of a command as its parent sees it. The parent must be small: a process begins its life
# with the resident memory of the one that forked it, and the kernel keeps the larger figure.
_WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
"""


class CommandFailed(Exception):
    """A command that was to be measured did not end well; the message has the last that it said."""


class Run(NamedTuple):
    """Wall seconds of a command run several times, and its peak resident memory in MB (10^6 bytes)."""

    median: float
    best: float
    peak_mb: float


def seconds(command: Sequence[str], good: Collection[int] = (0,)) -> float:
    """Wall time of one run, from start to exit.

    Raises:
        CommandFailed: its exit code is not a good one.
    """
    begin = time.perf_counter()
    _run(command, subprocess.DEVNULL, good)
    return time.perf_counter() - begin


def peak_mb(command: Sequence[str], good: Collection[int] = (0,)) -> float:
    """Peak resident memory of one run.

    Raises:
        CommandFailed: its exit code is not a good one.
    """
    done = _run([PYTHON, "-S", "-c", _WATCH, *command], subprocess.PIPE, good)
    return int(done.stdout) * 1024 / 1e6


def _run(command: Sequence[str], stdout: int, good: Collection[int]) -> subprocess.CompletedProcess[bytes]:
    """Runs a command. Its stderr goes into a file: nobody has to read it meanwhile."""
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, stdout=stdout, stderr=said, env=_environment(), check=False)
        if done.returncode not in good:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise CommandFailed(f"exit code {done.returncode}: {' / '.join(lines[-2:]) or 'it said nothing'}")
    return done


def _environment() -> dict[str, str]:
    """Byte code may be cached, as for any installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def alternate(
    commands: Mapping[str, Sequence[str]], times: int = 9, *, good: Collection[int] = (0,)
) -> dict[str, Run]:
    """Several commands taking turns, so that a slow minute hits all of them; each is warmed up once.

    Raises:
        CommandFailed: the exit code of one is not among the `good` ones.
    """
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(sized(times + 1, 1)):
        for name, command in commands.items():
            took = seconds(command, good)
            if turn or IS_SHORT:
                taken[name].append(took)
    return {
        name: Run(statistics.median(taken[name]), min(taken[name]), peak_mb(command, good))
        for name, command in commands.items()
    }


def timed(work: Callable[[], object], times: int = 5) -> float:
    """The best of a few runs in this process, in seconds."""
    best = float("inf")
    for _ in range(sized(times, 1)):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def read_speed() -> float:
    """Bytes a second that a sum over a large tensor reads, at best: the limit of what memory gives."""
    import torch

    big = torch.ones(sized(1 << 28, 1 << 20), dtype=torch.float32)
    return big.numel() * 4 / timed(big.sum)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def show(title: str, columns: Row, rows: Sequence[Row]) -> None:
    """Prints a table under a heading."""
    print(f"\n{title}")
    table = [columns, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for row in table:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def has(package: str) -> bool:
    """Whether a peer is installed; without it, the others are measured."""
    return find_spec(package) is not None


def where(*packages: str) -> str:
    """The machine, the commit, and the versions of Python and of what is compared."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    versions = ", ".join(f"{name} {version(name)}" for name in packages if has(name))
    machine = f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()}"
    return "\n".join(
        filter(None, (machine, f"dovetail at {commit}; Python {platform.python_version()}", versions))
    )
