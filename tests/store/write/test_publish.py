"""A folder appears whole or not at all, whatever goes wrong on the way."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.errors import UsageError, WriteError
from dovetail.store.write import publish
from dovetail.store.write.publish import publishing
from files import open_under


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text; empty folders end in a slash."""
    found = {}
    for inside, folders, names in os.walk(folder):
        relative = Path(inside).relative_to(folder)
        found |= {str(relative / name): (Path(inside) / name).read_text() for name in names}
        if not names and not folders and relative != Path():
            found[f"{relative}/"] = ""
    return found


def write(out: Path, text: str = "new", **options: object) -> None:
    with publishing(str(out), **options) as folder:  # type: ignore[arg-type]
        (Path(folder) / "x").write_text(text)


def fail(out: Path, error: BaseException, **options: object) -> None:
    with publishing(str(out), **options) as folder:  # type: ignore[arg-type]
        (Path(folder) / "x").write_text("half")
        raise error


def test_it_appears_at_the_end_with_everything_in_it(tmp_path: Path) -> None:
    with publishing(str(tmp_path / "out")) as folder:
        (Path(folder) / "inner").mkdir()
        (Path(folder) / "inner" / "x").write_text("deep")
        (Path(folder) / "y").write_text("top")
        assert not (tmp_path / "out").exists()
    assert tree(tmp_path) == {"out/inner/x": "deep", "out/y": "top"}


def test_new_folders_above_it_are_made_and_taken_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail(tmp_path / "a" / "b" / "out", KeyError())
    assert tree(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a" / "b" / "out")
    assert tree(tmp_path) == {"a/b/out/x": "new"}


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError):
        fail(tmp_path / "a" / "b" / "out", KeyError())
    assert tree(tmp_path) == {"a/": ""}


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(2), UsageError("no")])
def test_after_an_error_nothing_is_left(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    with pytest.raises(type(error)) as raised:
        fail(tmp_path / "out", error)
    assert raised.value is error
    assert tree(tmp_path) == {"other": "kept"}


def test_an_error_of_the_system_becomes_one_of_ours(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as error:
        fail(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(error.value) == (
        f"cannot write `{tmp_path}/out`: No space left on device\n\nhint: nothing was left behind"
    )
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_exists_is_refused_before_anything_is_written(there: str, tmp_path: Path) -> None:
    if there == "file":
        (tmp_path / "out").write_text("old")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "x").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(UsageError) as error:
        write(tmp_path / "out")
    assert str(error.value) == f"`{tmp_path}/out` exists\n\nhint: choose another name, or remove it first"
    assert tree(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert tree(tmp_path) == {"out/x": "new"}


@pytest.mark.parametrize("target", ["there", "absent"])
def test_a_link_is_followed(target: str, tmp_path: Path) -> None:
    """People link a folder on a large disk; the link stays, the folder is filled."""
    if target == "there":
        (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert tree(tmp_path / "disk") == {"x": "new"}


def test_a_replacement_takes_the_old_ones_place_at_the_end(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with publishing(str(tmp_path / "out"), overwrite=True) as folder:
        (Path(folder) / "y").write_text("new")
        assert (tmp_path / "out" / "x").read_text() == "old"
    assert tree(tmp_path) == {"out/y": "new"}


def test_a_replacement_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(KeyError):
        fail(tmp_path / "out", KeyError(), overwrite=True)
    assert tree(tmp_path) == {"out/x": "old"}


def test_a_replacement_is_one_step_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no time is there neither: nothing is renamed away first."""
    write(tmp_path / "out", "old")
    monkeypatch.setattr(os, "rename", None)
    write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == {"out/x": "new"}


def test_the_journal_goes_last(tmp_path: Path) -> None:
    with publishing(str(tmp_path / "out"), journal="j") as folder:
        (Path(folder) / "j").write_text("line")
        (Path(folder) / "x").write_text("new")
    assert tree(tmp_path) == {"out/x": "new"}


def test_a_file_is_replaced_as_a_folder_is(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == {"out/x": "new"}


def test_what_stands_where_the_old_one_would_be_put_is_nobodys_to_remove(tmp_path: Path) -> None:
    """A run that was killed in its last step may have left it, or it is the user's own."""
    write(tmp_path / "out", "second")
    write(tmp_path / "out.old", "first")
    with pytest.raises(UsageError) as error:
        write(tmp_path / "out", "third", overwrite=True)
    assert str(error.value) == (
        f"`{tmp_path}/out.old` is in the way: what is replaced is put there first\n\n"
        "hint: an earlier run may have left it; remove it or move it away"
    )
    assert tree(tmp_path) == {"out/x": "second", "out.old/x": "first"}


def test_a_folder_that_is_called_old_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "out.old", "mine")
    write(tmp_path / "out")
    assert tree(tmp_path) == {"out/x": "new", "out.old/x": "mine"}


def test_the_old_one_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", "old")
    really = os.rename

    def refuse(source: str, target: str) -> None:
        if source.endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    with pytest.raises(WriteError, match="Input/output error"):
        write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == {"out/x": "old"}


# -- room


def test_too_little_room_is_found_before_anything_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(WriteError) as error:
        write(tmp_path / "a" / "out", needed=free * 4)
    assert error.value.message == f"not enough room for `{tmp_path}/a/out`"
    assert error.value.details["needed"] == f"{free * 4:,} bytes"
    assert int(error.value.details["free"].split()[0].replace(",", "")) == pytest.approx(free, rel=0.2)
    assert list(tmp_path.iterdir()) == []


def test_enough_room_is_enough(tmp_path: Path) -> None:
    write(tmp_path / "out", needed=shutil.disk_usage(tmp_path).free // 2)
    assert tree(tmp_path) == {"out/x": "new"}


def test_what_a_killed_run_wrote_already_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "big").write_bytes(os.urandom(1 << 20))
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WriteError, match="not enough room"):
        write(tmp_path / "out", needed=(1 << 20) + 200_000, resume=True)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "big").write_bytes(os.urandom(1 << 20))
    write(tmp_path / "out", needed=(1 << 20) + 50, resume=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["big", "x"]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file/out", "Not a directory"),
        ("file/a/b/out", "Not a directory"),
        ("n" * 300 + "/out", "File name too long"),
    ],
)
def test_a_place_that_cannot_be_is_an_error_of_ours(place: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WriteError, match=why):
        write(tmp_path / place)
    assert tree(tmp_path) == {"file": "kept"}


# -- two runs

RUN = """
import sys, time
from pathlib import Path
from dovetail.errors import DovetailError
from dovetail.store.write import publish
from dovetail.store.write.publish import publishing
try:
    with publishing(sys.argv[1], resume="resume" in sys.argv) as folder:
        (Path(folder) / sys.argv[2]).write_text("written")
        print("writing", flush=True)
        if "wait" in sys.argv:
            time.sleep(60)
except DovetailError as error:
    print(error)
"""


def start(out: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(out), *words], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


def killed(out: Path, name: str) -> None:
    """A run that is killed while it writes."""
    with start(out, name, "wait") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "writing\n"
        run.send_signal(signal.SIGKILL)


def test_a_second_writer_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    with start(tmp_path / "out", "a", "wait") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "writing\n"
        for words in (("b",), ("b", "resume")):
            with start(tmp_path / "out", *words) as second:
                said, _ = second.communicate(timeout=60)
            assert (
                said == f"another run is writing `{tmp_path}/out.partial`\n\nhint: wait for it, or stop it\n"
            )
        assert tree(tmp_path) == {"out.partial/a": "written"}
        first.send_signal(signal.SIGKILL)


def test_a_killed_run_leaves_what_it_wrote_and_the_next_must_say_so(tmp_path: Path) -> None:
    killed(tmp_path / "out", "a")
    assert tree(tmp_path) == {"out.partial/a": "written"}
    with pytest.raises(UsageError) as error:
        write(tmp_path / "out")
    assert str(error.value) == (
        f"`{tmp_path}/out.partial` is left of a run that was killed\n\n"
        "hint: go on with --resume, or remove it"
    )
    assert tree(tmp_path) == {"out.partial/a": "written"}
    write(tmp_path / "out", resume=True)
    assert tree(tmp_path) == {"out/a": "written", "out/x": "new"}


def test_resuming_what_was_never_begun_begins_it(tmp_path: Path) -> None:
    write(tmp_path / "out", resume=True)
    assert tree(tmp_path) == {"out/x": "new"}


def test_what_is_left_is_shown_to_accept_and_kept_if_it_refuses(tmp_path: Path) -> None:
    def accept(folder: str) -> None:
        raise UsageError(f"{Path(folder).name} is of another conversion")

    killed(tmp_path / "out", "a")
    with pytest.raises(UsageError, match=r"out\.partial is of another conversion"):
        write(tmp_path / "out", resume=True, accept=accept)
    assert tree(tmp_path) == {"out.partial/a": "written"}
    write(tmp_path / "out", resume=True, accept=lambda _: None)
    assert tree(tmp_path) == {"out/a": "written", "out/x": "new"}


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(KeyError):
        fail(tmp_path / "other", KeyError())
    with pytest.raises(UsageError):
        write(tmp_path / "out")
    assert not open_under(tmp_path)
