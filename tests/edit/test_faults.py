"""Runs that are killed, interrupted, starved, hindered or lied to: OUT is absent, the old one, or complete.

What they had written stays, and whoever goes on with it gets what a run gives that nobody disturbs.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dovetail as package
from commands import dovetail, surroundings
from dovetail.edit.write import execute
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.errors import CheckpointError
from interrupted import SMALL, TO, digests, end_with, started, wait_for, wait_for_lines

# Whether the run waits for the disk or leaves it to the system, which then moves the bytes by itself.
SYNC = pytest.mark.parametrize("sync", [(), ("--no-sync",)], ids=["sync", "no-sync"])


# -- kill -9


def kill_again_and_again(
    source: Path, place: Path, whole: dict[str, dict[str, str]], *, kills: int, seed: int
) -> tuple[int, int]:
    """Kills runs at random moments, most of them resumed ones; gives how many were killed and kept tensors."""
    chance = random.Random(seed)
    killed = kept = 0
    while killed < kills:
        name = chance.choice([*TO])
        out, old = place / "out", None
        if chance.random() < 0.4:
            package.make("llama", out, set=SMALL, seed=chance.randrange(99))
            old = digests(out)
        words = ("convert", source, out, *TO[name], *(("--overwrite",) if old else ()))
        resumed: tuple[str, ...] = ()
        for _ in range(chance.randrange(1, 4)):
            sync = chance.choice([(), ("--no-sync",)])  # not a part of the plan: it may differ in every run
            process = started(*words, *resumed, *sync)
            wait_for(place / "out.partial" / JOURNAL, process)
            time.sleep(chance.random() * 0.25)
            code, said = end_with(process, signal.SIGKILL)
            assert code in (0, -signal.SIGKILL), said
            there = digests(out) if out.exists() else None
            there = {file: hash for file, hash in there.items() if file != JOURNAL} if there else None
            assert there in (old, whole[name]), "OUT is neither the old one nor complete"
            if there == whole[name]:
                break
            killed += 1
            resumed = ("--resume",)
        else:
            done = dovetail(*words, "--resume", "--json")
            assert done.code == 0, done.err
            kept += json.loads(done.out)["resumed"]
            assert digests(out) == whole[name]
            assert [path.name for path in place.iterdir()] == ["out"]
        shutil.rmtree(out)
        shutil.rmtree(place / "out.partial", ignore_errors=True)
    return killed, kept


def test_killed_runs_leave_the_old_one_and_are_resumed(
    source: Path, whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    killed, _ = kill_again_and_again(source, tmp_path, whole, kills=2, seed=1)
    assert killed >= 2


@pytest.mark.slow
def test_a_hundred_killed_runs(source: Path, whole: dict[str, dict[str, str]], tmp_path: Path) -> None:
    killed, kept = kill_again_and_again(source, tmp_path, whole, kills=120, seed=2)
    assert (killed >= 100, kept > 100) == (True, True)


# -- who waits for the disk


@pytest.mark.parametrize("name", TO)
def test_without_waiting_for_the_disk_the_same_is_written(
    name: str, source: Path, whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    answer = dovetail("convert", source, tmp_path / "out", *TO[name], "--no-sync")
    assert (answer.code, digests(tmp_path / "out")) == (0, whole[name])
    assert "not all of it is on the disk yet" in answer.out


def test_only_a_run_that_waits_for_the_disk_flushes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")))
    done = package.convert(small, tmp_path / "lazy", sync=False)
    assert (flushed, done.is_synced, done.as_json()["is_synced"]) == ([], False, False)
    done = package.convert(small, tmp_path / "safe")
    partial = tmp_path / "safe.partial"
    assert {str(partial / "model.safetensors"), str(partial), str(tmp_path)} <= {*flushed}
    assert done.is_synced
    assert digests(tmp_path / "safe") == digests(tmp_path / "lazy")


# -- Ctrl-C and two writers


def test_an_interrupted_run_is_gone_on_with(
    source: Path, whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """Ctrl-C loses no more than a kill, on a first run as on one that goes on; it says where the work is."""
    partial = tmp_path / "out.partial"
    words = ("convert", source, tmp_path / "out", *TO["hf"])
    codes = []
    for more_lines in (0, 4, 4):
        there = (partial / JOURNAL).read_bytes().count(b"\n") if partial.exists() else 0
        process = started(*words, *(("--resume",) if codes else ()))
        wait_for_lines(partial / JOURNAL, there + more_lines, process)
        code, said = end_with(process, signal.SIGINT)
        codes.append(code)
        if code == 0:
            break
        first, *more = said.splitlines()[said.splitlines().index("interrupted") :]
        assert (code, first) == (130, "interrupted")
        assert partial.exists() == bool(more) >= bool(more_lines)
        if more:
            assert more == [
                f"what was written is kept in `{partial}`: go on with the same command and --resume, "
                f"or remove it with `rm -r {partial}`"
            ]
    assert 130 in codes
    assert code == 0 or dovetail(*words, "--resume").code == 0
    assert digests(tmp_path / "out") == whole["hf"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_second_of_two_writers_is_refused(
    source: Path, whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    first = started("convert", source, tmp_path / "out", *TO["hf"])
    wait_for(tmp_path / "out.partial" / JOURNAL, first)
    first.send_signal(signal.SIGSTOP)
    try:
        answers = [
            dovetail("convert", source, tmp_path / "out", *TO["hf"], *more)
            for more in ((), ("--resume",), ("--overwrite",))
        ]
    finally:
        first.send_signal(signal.SIGCONT)
        first.communicate()
    assert [(one.code, "another run is writing" in one.err) for one in answers] == [(2, True)] * 3
    assert first.returncode == 0
    assert digests(tmp_path / "out") == whole["hf"]


# -- no room, no permission


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 140 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=140m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_too_small_is_found_before_anything_is_written(source: Path, disk: Path) -> None:
    answer = dovetail("convert", source, disk / "out", "--dtype", "float32")
    assert answer.code == 1
    assert "not enough room" in answer.err
    assert "needed" in answer.err
    assert list(disk.iterdir()) == []


@SYNC
def test_a_disk_that_fills_up_meanwhile_is_one_error_and_no_work_is_lost(
    sync: tuple[str, ...], source: Path, disk: Path
) -> None:
    process = started("convert", source, disk / "out", *sync)
    wait_for(disk / "out.partial" / JOURNAL, process)
    process.send_signal(signal.SIGSTOP)
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate()
    assert (process.returncode, "No space left on device" in said) == (1, True)
    assert "Traceback" not in said
    assert {path.name for path in disk.iterdir()} <= {"filler", "out.partial"}
    if not (disk / "out.partial").exists():
        return  # it was stopped before the first tensor was in its file
    assert f"kept in `{disk}/out.partial`" in said
    again = dovetail("convert", source, disk / "out", "--resume", *sync)
    assert (again.code, "not enough room" in again.err, (disk / "out.partial").exists()) == (1, True, True)
    (disk / "filler").unlink()
    again = dovetail("convert", source, disk / "out", "--resume", *sync)
    assert (again.code, [path.name for path in disk.iterdir()]) == (0, ["out"])


@SYNC
@pytest.mark.parametrize("limit", [1000, 500_000, 30_000_000, 70_000_000])
def test_a_limit_on_file_sizes_is_one_error_and_no_work_is_lost(
    limit: int,
    sync: tuple[str, ...],
    source: Path,
    whole: dict[str, dict[str, str]],
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dovetail", "convert", source, tmp_path / "out", "--to", "litgpt", *sync],
        env=surroundings(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "File too large" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    is_kept = limit > 1_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"] * is_kept
    assert (f"kept in `{tmp_path}/out.partial`" in done.stderr) == is_kept
    if limit == 70_000_000:
        again = dovetail("convert", source, tmp_path / "out", "--to", "litgpt", "--resume", "--json", *sync)
        assert (again.code, json.loads(again.out)["resumed"] > 0) == (0, True)
        assert digests(tmp_path / "out") == whole["litgpt"]


def test_a_target_that_may_not_be_written_is_one_error(small: Path, tmp_path: Path) -> None:
    answer = dovetail("convert", small, "/proc/out")
    assert (answer.code, "cannot write `/proc/out`" in answer.err) == (1, True)
    (tmp_path / "file").touch()
    answer = dovetail("convert", small, tmp_path / "file" / "out")
    assert (answer.code, "Not a directory" in answer.err) == (1, True)


# -- sources that change


@SYNC
def test_a_source_that_is_cut_off_while_it_is_read(
    sync: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(source, mine)
    process = started("convert", mine, tmp_path / "out", "--to", "litgpt", *sync)
    wait_for(tmp_path / "out.partial" / JOURNAL, process)
    os.truncate(max(mine.glob("*.safetensors")), 1000)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "the file ends inside" in said or "changed while it was read" in said
    assert not (tmp_path / "out").exists()
    if (tmp_path / "out.partial").exists():
        assert "nobody can go on with it, as the source has changed; remove it with `rm -r" in said


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_source_that_changes_while_it_is_read(how: str, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(source, mine)
    shard = max(mine.glob("*.safetensors"))
    shutil.copy(shard, tmp_path / "other")
    process = started("convert", mine, tmp_path / "out", "--to", "litgpt")
    wait_for(tmp_path / "out.partial" / JOURNAL, process)
    if how == "written":
        with open(shard, "r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(b"x")
    elif how == "replaced":
        os.replace(tmp_path / "other", shard)
    else:
        shard.unlink()
    _, said = process.communicate()
    assert (process.returncode, "the source changed while it was read" in said) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["chmod", "link", "rewrite"])
def test_a_source_whose_status_is_touched_is_compared(
    how: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chmod and a hard link change nothing that was read; a rewrite with its time put back may."""
    weights = small / "model.safetensors"
    package.convert(small, tmp_path / "expected")
    write_file = execute.write_file

    def touched(*words: object, **options: object) -> None:
        write_file(*words, **options)  # type: ignore[arg-type]
        times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
        if how == "chmod":
            weights.chmod(0o600)
        elif how == "link":
            os.link(weights, tmp_path / "second")
        else:
            with open(weights, "r+b") as file:
                file.seek(-100, os.SEEK_END)
                file.write(b"x")
            os.utime(weights, ns=times)

    monkeypatch.setattr(execute, "write_file", touched)
    if how == "rewrite":
        with pytest.raises(CheckpointError, match="the source changed while it was read"):
            package.convert(small, tmp_path / "out")
    else:
        package.convert(small, tmp_path / "out")
        assert digests(tmp_path / "out") == digests(tmp_path / "expected")
