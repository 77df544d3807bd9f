"""What every bench shares: running a command, its time and peak memory, and a table that says where."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PYTHON = sys.executable
DOVETAIL = str(Path(sys.executable).with_name("dovetail"))

Row = tuple[str, ...]


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


def seconds(command: Sequence[str]) -> float:
    """Wall time of one run, from start to exit.

    Raises:
        CommandFailed: its exit code is not 0.
    """
    begin = time.perf_counter()
    _run(command, subprocess.DEVNULL)
    return time.perf_counter() - begin


def peak_mb(command: Sequence[str]) -> float:
    """Peak resident memory of one run.

    Raises:
        CommandFailed: its exit code is not 0.
    """
    done = _run([PYTHON, "-S", "-c", _WATCH, *command], subprocess.PIPE)
    return int(done.stdout) * 1024 / 1e6


def _run(command: Sequence[str], stdout: int) -> subprocess.CompletedProcess[bytes]:
    """Runs a command. Its stderr goes into a file: nobody has to read it meanwhile."""
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, stdout=stdout, stderr=said, env=_environment(), check=False)
        if done.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise CommandFailed(f"exit code {done.returncode}: {' / '.join(lines[-2:]) or 'it said nothing'}")
    return done


def _environment() -> dict[str, str]:
    """Byte code may be cached, as for any installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def alternate(commands: Mapping[str, Sequence[str]], times: int = 9) -> dict[str, Run]:
    """Several commands taking turns, so that a slow minute hits all of them; each is warmed up once."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(times + 1):
        for name, command in commands.items():
            took = seconds(command)
            if turn:
                taken[name].append(took)
    return {
        name: Run(statistics.median(taken[name]), min(taken[name]), peak_mb(command))
        for name, command in commands.items()
    }


def timed(work: Callable[[], object], times: int = 5) -> float:
    """The best of a few runs in this process, in seconds."""
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def read_speed() -> float:
    """Bytes a second that a sum over a large tensor reads, at best: the limit of what memory gives."""
    import torch

    big = torch.ones(1 << 28, dtype=torch.float32)
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


def where(*packages: str) -> str:
    """The machine, the commit, and the versions of Python and of what is compared."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()}"
    return "\n".join(
        filter(None, (machine, f"dovetail at {commit}; Python {platform.python_version()}", versions))
    )
