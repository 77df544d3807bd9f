"""Where other programs are installed, each in an environment of its own, and how a script runs there.

`scripts/engines` builds them below `.engines`, or wherever `DOVETAIL_ENGINES` says.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PLACE = Path(os.environ.get("DOVETAIL_ENGINES", HERE.parents[1] / ".engines"))


def run(name: str, script: str, *words: str | Path) -> dict[str, Any]:
    """The JSON line that a script of this folder prints in an environment; skips where there is none."""
    python = PLACE / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no {python}: `make test-engine` builds it")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [python, HERE / script, *words], capture_output=True, text=True, env=clean, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # vLLM talks after it too
    found: dict[str, Any] = json.loads(lines[-1])
    return found
