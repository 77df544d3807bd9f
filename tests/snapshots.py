"""Whole texts kept in `tests/golden`, compared letter by letter.

`UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/cli tests/hostile` writes them anew; `git diff` then
shows what users will see change.
"""

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    """Compares a text with `tests/golden/NAME`, or writes it there."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"there is no tests/golden/{name}: set UPDATE_SNAPSHOTS=1 to write it"
    assert text == path.read_text(), f"tests/golden/{name} differs: UPDATE_SNAPSHOTS=1 writes it anew"


def names(folder: str) -> set[str]:
    """What is kept in a folder of `tests/golden`, without endings."""
    return {path.stem for path in (GOLDEN / folder).glob("*.txt")}
