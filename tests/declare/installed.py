"""Families of the tests, found as those of an installed package are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dovetail.families import third_party


@contextmanager
def installed(folder: Path, point: str) -> Iterator[None]:
    """Puts an entry point (`module:FAMILY`) where Python looks for installed packages."""
    about = folder / "test_families-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Name: test-families\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[dovetail.families]\ntest = {point}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        third_party.cache_clear()
        yield
    third_party.cache_clear()
