"""Files and folders that may not be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dovetail.errors import MissingError
from dovetail.store.folder import LocalFolder
from dovetail.store.source import LocalSource

HINT = "`ls -l` shows who may read it; ask its owner, or copy it as somebody who may"


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything, so it becomes somebody else for a while."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"{}")
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with nobody(), pytest.raises(MissingError) as caught:
        LocalSource(str(path))
    assert str(caught.value) == f"cannot open the file: Permission denied\n  file  {path}\n\nhint: {HINT}"


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir(mode=0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with nobody(), pytest.raises(MissingError) as caught:
        LocalFolder(str(inside)).files()
    assert (
        str(caught.value) == f"cannot open the folder: Permission denied\n  folder  {inside}\n\nhint: {HINT}"
    )


def test_another_reason_has_no_such_hint(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        LocalSource(str(tmp_path / "nothing"))
    assert caught.value.hint == MissingError.next_step
