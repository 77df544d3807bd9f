"""A checkpoint that is large enough to be caught half written, and what it becomes undisturbed."""

from pathlib import Path

import pytest

import dovetail as package
from commands import dovetail
from interrupted import SIZES, SMALL, TO, digests


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "qwen3"
    package.make("qwen3", folder, set=SIZES, max_shard_size=40_000_000)
    return folder


@pytest.fixture(scope="session")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each run gives that nobody disturbs."""
    found = {}
    for name, words in TO.items():
        out = tmp_path_factory.mktemp("whole") / "out"
        assert dovetail("convert", source, out, *words).code == 0
        found[name] = digests(out)
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    package.make("qwen3", tmp_path / "small", set=SMALL)
    return tmp_path / "small"
