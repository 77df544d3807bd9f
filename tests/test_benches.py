"""Every bench runs: once and with little, for its figures are nothing that a test could check."""

import sys
from pathlib import Path

import pytest

from commands import python

BENCH = Path(__file__).parents[1] / "bench"
SCRIPTS = sorted(path.name for path in BENCH.glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bench_runs_to_its_end(script: str, tmp_path: Path) -> None:
    answer = python(BENCH / script, "--short", cwd=tmp_path)
    assert answer.code == 0, answer.out + answer.err
    assert "FAILED" not in answer.out
    header, *tables = answer.out.split("\n\n")
    assert f"Python {sys.version.split()[0]}" in header
    assert tables, answer.out


@pytest.mark.slow
def test_a_command_that_fails_ends_a_bench(tmp_path: Path) -> None:
    """So the test above can fail."""
    program = f"import sys; sys.path.insert(0, {str(BENCH)!r}); from measure import PYTHON, alternate; "
    answer = python("-c", program + "alternate({'none': [PYTHON, '-c', 'exit(3)']}, 1)", cwd=tmp_path)
    assert answer.code == 1
    assert "CommandFailed: exit code 3" in answer.err
