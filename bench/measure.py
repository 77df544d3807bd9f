"""What every bench shares: running a command, its time and peak memory, and a table that says where."""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Row = tuple[str, ...]


class Run:
    """Wall seconds (median and best) and peak memory of a command run several times."""

    def __init__(self, seconds: Sequence[float], peak_kb: int) -> None:
        self.median = statistics.median(seconds)
        self.best = min(seconds)
        self.peak_mb = peak_kb / 1024


def run(command: Sequence[str], times: int = 9) -> Run:
    """Runs a command in a process of its own; byte code may be cached, as for any installed package."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds, peak = [], 0
    for _ in range(times + 1):
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        _, _, usage = os.wait4(child.pid, 0)
        seconds.append(time.perf_counter() - begin)
        peak = max(peak, usage.ru_maxrss)
    return Run(seconds[1:], peak)


def alternate(commands: dict[str, Sequence[str]], times: int = 9) -> dict[str, Run]:
    """The same for several commands, taking turns, so that a slow minute hits all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            runs[name].append(run(command, 1))
    joined = {}
    for name, found in runs.items():
        joined[name] = Run([one.median for one in found], 0)
        joined[name].peak_mb = max(one.peak_mb for one in found)
    return joined


def timed(work: Callable[[], object], times: int = 5) -> float:
    """The best of a few runs in this process, in seconds."""
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def show(title: str, columns: Row, rows: Sequence[Row]) -> None:
    """Prints a table under a heading."""
    print(f"\n{title}")
    table = [columns, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for row in table:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def where() -> str:
    """The machine and the versions, on one line."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu or platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}"


def peak_mb() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PYTHON = sys.executable
DOVETAIL = str(Path(sys.executable).with_name("dovetail"))
