"""A folder gets a name that nothing has, whatever the system offers for it."""

import errno
import os
from pathlib import Path

import pytest

from dovetail.store.write import rename
from dovetail.store.write.rename import exchange, is_mount_point, rename_new, rename_over_empty


@pytest.mark.parametrize("lacking", [None, errno.ENOSYS, errno.EINVAL])
def test_what_has_the_name_keeps_it(
    lacking: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder as well: somebody may be about to write into it."""
    if lacking is not None:
        monkeypatch.setattr(rename, "_rename", lambda *_: lacking)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x").write_text("new")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "y").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "lost").symlink_to("nowhere")
    for name in ("empty", "full", "file", "link", "lost"):
        assert not rename_new(str(tmp_path / "new"), str(tmp_path / name)), name
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "full", "link", "lost", "new"]
    for name in ("full", "file", "link", "lost"):
        assert not rename_over_empty(str(tmp_path / "new"), str(tmp_path / name)), name
    assert rename_new(str(tmp_path / "new"), str(tmp_path / "free"))
    assert rename_over_empty(str(tmp_path / "free"), str(tmp_path / "empty"))
    assert (tmp_path / "empty" / "x").read_text() == "new"


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_new(str(tmp_path / "nothing"), str(tmp_path / "free"))
    assert not exchange(str(tmp_path / "nothing"), str(tmp_path / "free"))


def test_a_system_without_the_call_is_told_apart_from_one_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(rename.ctypes, "CDLL", lambda *_, **__: object())
    assert not exchange(str(tmp_path / "a"), str(tmp_path / "a"))
    assert rename_new(str(tmp_path / "a"), str(tmp_path / "b"))


def test_without_a_list_of_mounts_there_is_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rename, "_MOUNTS", str(tmp_path / "nothing"))
    assert is_mount_point("/proc")
    assert not is_mount_point(str(tmp_path))


def test_a_mounted_folder_with_an_odd_name_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list writes blanks as octal numbers."""
    (tmp_path / "list").write_text(f"36 35 98:0 / {tmp_path}/a\\040b rw - ext4 /dev/x rw\nshort line\n")
    monkeypatch.setattr(rename, "_MOUNTS", str(tmp_path / "list"))
    (tmp_path / "a b").mkdir()
    assert is_mount_point(f"{tmp_path}/a b")
    assert not is_mount_point(f"{tmp_path}/a")
