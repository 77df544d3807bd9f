"""Whole texts kept in `tests/golden`, compared letter by letter.

`UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/cli tests/hostile` writes them anew (without `-n`:
sections of one file are written one after the other); `git diff` then shows what users will see change.
"""

import os
import re
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


def check_section(name: str, title: str, text: str) -> None:
    """Compares a text with the section of a file that has this title, or writes it there."""
    kept = _read(GOLDEN / name)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        kept[title] = text
        (GOLDEN / name).parent.mkdir(exist_ok=True)
        whole = "\n\n".join(f"## {title}\n\n{text}" for title, text in kept.items())
        (GOLDEN / name).write_text(whole + "\n")
    assert text == kept.get(title), f"section {title} of tests/golden/{name} differs"


def sections(name: str) -> list[str]:
    """The titles of a file's sections, in order."""
    return list(_read(GOLDEN / name))


def _read(path: Path) -> dict[str, str]:
    text = path.read_text() if path.exists() else ""
    pieces = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {title: body.strip("\n") for title, _, body in (piece.partition("\n") for piece in pieces)}
