"""Models that several modules of tests look at, and none changes."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: Any) -> dict[str, Any]:
    """Every model of `every_model.py`, as `load` makes it: over the mapped bytes of its file."""
    from models.every_model import CASES

    folder = tmp_path_factory.mktemp("models")
    return {name: case.loaded(folder / name) for name, case in CASES.items()}
