"""A folder appears whole or not at all, whatever goes wrong on the way, and no work is lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.errors import UsageError, WriteError
from dovetail.store.write import rename
from dovetail.store.write.partial import check_files, foreign, removal
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


def anything(_: str) -> None:
    """Says of whatever is there that it may be replaced."""


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


ERRORS = [KeyError("x"), KeyboardInterrupt(), SystemExit(2), UsageError("no"), UsageError("no", hint="do")]


@pytest.mark.parametrize("keeps", [None, lambda _: None])
@pytest.mark.parametrize("error", ERRORS)
def test_what_nothing_can_be_done_with_goes(error: BaseException, keeps: object, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    with pytest.raises(type(error)) as raised:
        fail(tmp_path / "out", error, keeps=keeps)
    assert raised.value is error
    assert tree(tmp_path) == {"other": "kept"}


@pytest.mark.parametrize("error", ERRORS)
def test_work_stays_and_the_error_says_where_and_what_to_do_with_it(
    error: BaseException, tmp_path: Path
) -> None:
    said = f"what was written is kept in `{tmp_path}/a/out.partial`: go on"
    hint = getattr(error, "hint", None)
    with pytest.raises(type(error)) as raised:
        fail(tmp_path / "a" / "out", error, keeps=lambda _: "go on")
    assert raised.value is error
    assert tree(tmp_path) == {"a/out.partial/x": "half"}
    if isinstance(error, UsageError):
        assert error.hint == (f"{hint}; {said}" if hint else said)
    else:
        assert error.__notes__[-1] == said


def test_an_error_of_the_system_becomes_one_of_ours(tmp_path: Path) -> None:
    for keeps, said in (
        (None, "nothing was left of it"),
        (lambda _: "go on", f"what was written is kept in `{tmp_path}/out.partial`: go on"),
    ):
        with pytest.raises(WriteError) as error:
            fail(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), keeps=keeps)
        assert str(error.value) == f"cannot write `{tmp_path}/out`: No space left on device\n\nhint: {said}"
    assert tree(tmp_path) == {"out.partial/x": "half"}


def test_what_an_earlier_run_left_is_never_removed(tmp_path: Path) -> None:
    """Whatever the run that is to go on with it meets, even before it writes."""
    for keeps in (None, lambda _: None):
        killed(tmp_path / "out", "a")
        with pytest.raises(WriteError, match="not enough room") as error:
            write(tmp_path / "out", needed=1 << 60, resume=True, keeps=keeps)
        assert f"remove it with `rm -r {tmp_path}/out.partial`" in str(error.value)
        with pytest.raises(KeyboardInterrupt):
            fail(tmp_path / "out", KeyboardInterrupt(), resume=True, keeps=keeps)
        assert tree(tmp_path) == {"out.partial/a": "written", "out.partial/x": "half"}
        shutil.rmtree(tmp_path / "out.partial")


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
    with publishing(str(tmp_path / "out"), replaces=anything) as folder:
        (Path(folder) / "y").write_text("new")
        assert (tmp_path / "out" / "x").read_text() == "old"
    assert tree(tmp_path) == {"out/y": "new"}


def test_a_replacement_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(KeyError):
        fail(tmp_path / "out", KeyError(), replaces=anything)
    assert tree(tmp_path) == {"out/x": "old"}


def test_a_replacement_is_one_step_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no time is there neither: nothing is renamed away first."""
    write(tmp_path / "out", "old")
    monkeypatch.setattr(os, "rename", None)
    write(tmp_path / "out", replaces=anything)
    assert tree(tmp_path) == {"out/x": "new"}


def test_the_journal_goes_last(tmp_path: Path) -> None:
    with publishing(str(tmp_path / "out"), journal="j") as folder:
        (Path(folder) / "j").write_text("line")
        (Path(folder) / "x").write_text("new")
    assert tree(tmp_path) == {"out/x": "new"}


def test_what_stands_where_the_old_one_would_be_put_is_nobodys_to_remove(tmp_path: Path) -> None:
    """A run that was killed in its last step may have left it, or it is the user's own."""
    write(tmp_path / "out", "second")
    write(tmp_path / "out.old", "first")
    with pytest.raises(UsageError) as error:
        write(tmp_path / "out", "third", replaces=anything)
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
    monkeypatch.setattr(rename, "_rename", lambda *_: errno.ENOSYS)
    with pytest.raises(WriteError, match="Input/output error"):
        write(tmp_path / "out", replaces=anything, keeps=lambda _: "go on")
    assert tree(tmp_path) == {"out/x": "old", "out.partial/x": "new"}


# -- what appears meanwhile

SYSTEMS = pytest.mark.parametrize("lacking", [None, errno.ENOSYS, errno.EINVAL])


def on(monkeypatch: pytest.MonkeyPatch, lacking: int | None) -> None:
    """A system or a file system without renameat2."""
    if lacking is not None:
        monkeypatch.setattr(rename, "_rename", lambda *_: lacking)


def appear(out: Path, kind: str) -> None:
    """Somebody puts something at the place of the result."""
    if out.exists():
        out.rmdir()
    if kind == "folder":
        out.mkdir()
        (out / "thesis").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        (out.parent / "other").mkdir()
        out.symlink_to("other")


@SYSTEMS
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.parametrize("before", ["nothing", "empty folder"])
def test_what_appears_meanwhile_is_not_replaced(
    before: str, kind: str, lacking: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, lacking)
    out = tmp_path / "out"
    if before == "empty folder":
        out.mkdir()

    def run() -> None:
        with publishing(str(out), keeps=lambda _: "go on") as folder:
            (Path(folder) / "x").write_text("new")
            appear(out, kind)

    with pytest.raises(WriteError) as error:
        run()
    assert str(error.value) == (
        f"`{out}` appeared while it was written, and nobody said that it may be replaced\n\n"
        "hint: move it away, or replace it with --overwrite; "
        f"what was written is kept in `{out}.partial`: go on"
    )
    mine = {"folder": {"out/thesis": "mine"}, "file": {"out": "mine"}, "link": {"other/": ""}}[kind]
    assert tree(tmp_path) == {"out.partial/x": "new", **mine}
    assert out.is_symlink() == (kind == "link")


@SYSTEMS
def test_an_empty_folder_may_appear_meanwhile(
    lacking: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, lacking)
    with publishing(str(tmp_path / "out")) as folder:
        (Path(folder) / "x").write_text("new")
        (tmp_path / "out").mkdir()
    assert tree(tmp_path) == {"out/x": "new"}


@SYSTEMS
def test_what_is_replaced_is_looked_at_again_in_the_end(
    lacking: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time it is as it was; the second and the third time something else is in it."""
    on(monkeypatch, lacking)
    for last in (2, 3):
        seen: list[str] = []

        def refuse(path: str, seen: list[str] = seen, last: int = last) -> None:
            seen.append(path)
            if len(seen) == last:
                raise UsageError("not this")

        write(tmp_path / "out", "old")
        with pytest.raises(UsageError, match="not this"):
            write(tmp_path / "out", replaces=refuse, keeps=lambda _: "go on")
        assert len(seen) == last
        assert tree(tmp_path) == {"out/x": "old", "out.partial/x": "new"}
        shutil.rmtree(tmp_path / "out.partial")
        shutil.rmtree(tmp_path / "out")


def test_an_interruption_after_the_end_says_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write(tmp_path / "out", "old")
    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt) as error:
        write(tmp_path / "out", replaces=anything)
    assert error.value.__notes__ == [
        f"`{tmp_path}/out` is complete",
        f"what it replaces: remove it with `rm -r {tmp_path}/out.partial`",
    ]
    assert tree(tmp_path) == {"out/x": "new", "out.partial/x": "old"}


# -- mount points


@pytest.mark.parametrize("kind", ["file system", "folder of the same file system"])
def test_a_mount_point_is_found_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    out, more = tmp_path / "o u t", tmp_path / "more"
    out.mkdir()
    more.mkdir()
    how = ["-t", "tmpfs", "tmpfs"] if kind == "file system" else ["--bind", str(more)]
    if subprocess.run(["mount", *how, str(out)], capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root")
    try:
        with pytest.raises(UsageError) as error:
            write(out)
        assert str(error.value) == (
            f"`{out}` is a mount point: a result appears by being renamed, and nothing can be renamed to it"
            f"\n\nhint: write to a folder on it, for example `{out}/model`"
        )
        assert sorted(os.listdir(tmp_path)) == ["more", "o u t"]
        write(out / "model")
        assert tree(out) == {"model/x": "new"}
    finally:
        subprocess.run(["umount", str(out)], check=True)


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
    for journal, said in (
        (
            "a",
            f"`{tmp_path}/out.partial` is left of a run that did not end\n\nhint: go on with the same command "
            f"and --resume, or remove it with `rm -r {tmp_path}/out.partial`",
        ),
        (
            None,
            f"`{tmp_path}/out.partial` is in the way, and nothing in it says how to go on with it\n\n"
            f"hint: if nothing in it is needed, remove it with `rm -r {tmp_path}/out.partial`",
        ),
    ):
        with pytest.raises(UsageError) as error:
            write(tmp_path / "out", journal=journal)
        assert str(error.value) == said
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


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_not_written_into(kind: str, resume: bool, tmp_path: Path) -> None:
    """A link would lead the run, and in the end the result, somewhere else."""
    (tmp_path / "other").mkdir()
    if kind == "link":
        (tmp_path / "out.partial").symlink_to("other")
    else:
        (tmp_path / "out.partial").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"out\.partial` is in the way"):
        write(tmp_path / "out", resume=resume, accept=lambda _: None)
    assert tree(tmp_path) == before


def test_what_a_run_does_not_write_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "a" / "b" / "y").write_text("2")
    names = ["x", "b/y", "z"]
    check_files(str(tmp_path / "a"), names)
    os.link(tmp_path / "a" / "x", tmp_path / "second name")
    (tmp_path / "a" / "letter").write_text("mine")
    (tmp_path / "a" / "z").symlink_to("x")
    (tmp_path / "a" / "c").mkdir()
    (tmp_path / "a" / "b" / "w").mkdir()
    with pytest.raises(UsageError) as error:
        check_files(str(tmp_path / "a"), names)
    assert str(error.value) == (
        f"`{tmp_path}/a` holds what this run does not write: `b/w/`, `c/`, `letter`, "
        "`x` (a link, or no ordinary file), `z` (a link, or no ordinary file)\n\n"
        "hint: move it away, then go on with the same command and --resume"
    )
    shutil.rmtree(tmp_path / "a" / "b")
    (tmp_path / "a" / "b").symlink_to(tmp_path)
    assert "`b` (a link, or no ordinary file)" not in (found := foreign(str(tmp_path / "a"), names))
    assert "`b`" in found


def test_the_command_that_removes_it_is_for_a_shell() -> None:
    assert removal("/a b/$(c).partial") == "rm -r '/a b/$(c).partial'"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(KeyError):
        fail(tmp_path / "other", KeyError())
    with pytest.raises(UsageError):
        write(tmp_path / "out")
    assert not open_under(tmp_path)
