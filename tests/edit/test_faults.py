"""Runs that are killed, interrupted, starved, hindered or lied to: OUT is absent, the old one, or complete."""

import contextlib
import hashlib
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
from commands import Answer, dovetail, surroundings
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.edit.write.journal import Entry, Journal

# About 100 MB over three shards: enough for a run to be caught in the middle of any of them.
SIZES = {
    "text.layers": 3,
    "text.d_model": 1024,
    "text.q_heads": 8,
    "text.kv_heads": 2,
    "text.head_dim": 128,
    "text.d_ff": 3072,
    "text.vocab": 7001,
}
SMALL = {**SIZES, "text.d_model": 64, "text.d_ff": 96, "text.vocab": 211, "text.head_dim": 16}
TO = {
    "hf": ("--to", "hf", "--max-shard-size", "40MB"),
    "litgpt": ("--to", "litgpt"),
    "cast": ("--to", "litgpt-legacy", "--format", "safetensors", "--dtype", "float32", "--pad-vocab", "512"),
}
# Whether the run waits for the disk or leaves it to the system, which then moves the bytes by itself.
SYNC = pytest.mark.parametrize("sync", [(), ("--no-sync",)], ids=["sync", "no-sync"])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "qwen3"
    package.make("qwen3", folder, set=SIZES, max_shard_size=40_000_000)
    return folder


@pytest.fixture(scope="module")
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


def digests(folder: Path) -> dict[str, str]:
    """Every file by its hash."""
    return {
        path.name: hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def started(*words: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dovetail", *map(str, words)],
        cwd=cwd,
        env=surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is there, or the process is gone."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.0005)


def end_with(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, said = process.communicate()
    return process.returncode, said


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
    killed, kept = kill_again_and_again(source, tmp_path, whole, kills=8, seed=1)
    assert (killed >= 8, kept > 0) == (True, True)


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


# -- what a killed run left


@pytest.fixture
def left(killed: Path, tmp_path: Path) -> Path:
    """The same for one test."""
    return shutil.copytree(killed, tmp_path / "out.partial")


@pytest.fixture(scope="module")
def killed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a run left that was killed after some tensors."""
    tmp_path = tmp_path_factory.mktemp("killed")
    for _ in range(50):
        process = started("convert", source, tmp_path / "out", *TO["hf"])
        journal = tmp_path / "out.partial" / JOURNAL
        wait_for(journal, process)
        while process.poll() is None and journal.exists() and journal.read_bytes().count(b"\n") < 8:
            time.sleep(0.0005)
        end_with(process, signal.SIGKILL)
        if journal.exists() and journal.read_bytes().count(b"\n") >= 8:
            return tmp_path / "out.partial"
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    raise AssertionError("the run is too fast to be caught")


def resume(source: Path, left: Path, *words: str) -> Answer:
    return dovetail("convert", source, left.with_suffix(""), *(words or TO["hf"]), "--resume", "--json")


def test_a_run_left_behind_is_not_begun_anew_by_accident(source: Path, left: Path) -> None:
    before = digests(left)
    answer = dovetail("convert", source, left.with_suffix(""), *TO["hf"])
    assert (answer.code, "--resume" in answer.err) == (2, True)
    assert digests(left) == before


@pytest.mark.parametrize(
    "torn", [b'{"file": "model-0', b'{"plan": 5', b"\x00\xff\n", b"7\n", b"{}\n", b'{"file": 1}']
)
def test_a_torn_line_of_the_journal_is_cut_off(
    torn: bytes, source: Path, left: Path, whole: dict[str, dict[str, str]]
) -> None:
    with open(left / JOURNAL, "ab") as journal:
        journal.write(torn)
    answer = resume(source, left)
    assert (answer.code, json.loads(answer.out)["resumed"] > 0) == (0, True)
    assert digests(left.with_suffix("")) == whole["hf"]


def test_what_follows_a_torn_line_is_read_by_the_next_run(tmp_path: Path) -> None:
    """A second kill after a first one: a torn line that stayed would swallow the line after it."""
    for tensor in ("a", "b"):
        journal = Journal(str(tmp_path), "plan")
        journal.add("file", tensor, Entry(0, {tensor: "hash"}))
        journal.close()
        with open(tmp_path / JOURNAL, "ab") as torn:
            torn.write(b'{"file": "fi')
    journal = Journal(str(tmp_path), "plan")
    journal.close()
    assert [*journal.tensors] == [("file", "a"), ("file", "b")]


@pytest.mark.parametrize("where", ["header", "tensor", "end"])
def test_a_partial_file_that_was_damaged_is_written_again(
    where: str, source: Path, left: Path, whole: dict[str, dict[str, str]]
) -> None:
    with open(min(left.glob("*.safetensors")), "r+b") as file:
        file.seek({"header": 20, "tensor": 9_000_000, "end": 0}[where], os.SEEK_END if where == "end" else 0)
        file.write(b"damage")
    assert resume(source, left).code == 0
    assert digests(left.with_suffix("")) == whole["hf"]


def test_a_journal_of_nothing_begins_anew(source: Path, left: Path, whole: dict[str, dict[str, str]]) -> None:
    for path in left.glob("*.safetensors"):
        path.unlink()
    (left / JOURNAL).write_bytes(b'{"pla')
    answer = resume(source, left)
    assert (answer.code, json.loads(answer.out)["resumed"]) == (0, 0)
    assert digests(left.with_suffix("")) == whole["hf"]


def test_a_folder_that_no_run_left_is_not_taken_over(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "letter.txt").write_text("mine")
    answer = dovetail("convert", small, tmp_path / "out", "--resume")
    assert (answer.code, "no journal" in answer.err) == (2, True)
    assert (tmp_path / "out.partial" / "letter.txt").read_text() == "mine"


def test_resuming_says_that_nothing_was_left(small: Path, tmp_path: Path) -> None:
    answer = dovetail("convert", small, tmp_path / "out", "--resume")
    assert (answer.code, "nothing of an earlier run kept" in answer.out) == (0, True)


def test_a_dry_run_says_that_the_run_would_stop(small: Path, tmp_path: Path) -> None:
    words = ("convert", small, tmp_path / "out", "--dry-run")
    assert "stops" not in dovetail(*words).err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    for more, why in (((), "exists"), (("--overwrite",), "holds no checkpoint")):
        answer = dovetail(*words, *more)
        assert (answer.code, "stops" in answer.err, why in answer.err) == (0, True, True)


@pytest.mark.parametrize(
    "words", [TO["litgpt"], ("--to", "hf", "--max-shard-size", "30MB"), (*TO["hf"], "--dtype", "float16")]
)
def test_resuming_with_other_options_is_refused(words: tuple[str, ...], source: Path, left: Path) -> None:
    before = digests(left)
    answer = resume(source, left, *words)
    assert (answer.code, "begun with other options" in answer.err) == (2, True)
    assert digests(left) == before
    assert not left.with_suffix("").exists()


def test_resuming_after_the_source_changed_is_refused(source: Path, left: Path) -> None:
    before = digests(left)
    shard = min(source.glob("*.safetensors"))
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    os.utime(shard)
    try:
        answer = resume(source, left)
    finally:
        os.utime(shard, ns=times)
    assert (answer.code, "a source that has changed" in answer.err) == (2, True)
    assert digests(left) == before


# -- Ctrl-C and two writers


def test_an_interrupted_run_leaves_nothing(source: Path, tmp_path: Path) -> None:
    interrupted = 0
    for delay in (0.0, 0.01, 0.03, 0.06):
        process = started("convert", source, tmp_path / "out", *TO["hf"])
        wait_for(tmp_path / "out.partial", process)
        time.sleep(delay)
        code, said = end_with(process, signal.SIGINT)
        if code == 0:
            shutil.rmtree(tmp_path / "out")
            continue
        assert (code, said.splitlines()[-1]) == (130, "interrupted")
        assert list(tmp_path.iterdir()) == []
        interrupted += 1
    assert interrupted


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
def test_a_disk_that_fills_up_meanwhile_is_one_error_and_nothing_left(
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
    assert [path.name for path in disk.iterdir()] == ["filler"]


@SYNC
@pytest.mark.parametrize("limit", [1000, 500_000, 30_000_000, 70_000_000])
def test_a_limit_on_file_sizes_is_one_error_and_nothing_left(
    limit: int, sync: tuple[str, ...], source: Path, tmp_path: Path
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
    assert list(tmp_path.iterdir()) == []


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
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


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


# -- places


@pytest.mark.parametrize(
    ("place", "why"),
    [("small", "is the source itself"), ("small/out", "is inside the source"), (".", "is around the source")],
)
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_place_that_would_harm_the_source_is_refused(
    place: str, why: str, more: tuple[str, ...], small: Path, tmp_path: Path
) -> None:
    before = digests(tmp_path)
    (tmp_path / "link").symlink_to(small)
    for source in (small, tmp_path / "link", small / "model.safetensors"):
        answer = dovetail("convert", source, tmp_path / place, *more)
        is_file = source.suffix and place == "small/out"
        assert (answer.code, is_file or why in answer.err or "around" in answer.err) == (
            0 if is_file else 2,
            True,
        )
        shutil.rmtree(tmp_path / "small" / "out", ignore_errors=True)
    (tmp_path / "link").unlink()
    assert digests(tmp_path) == before


def test_what_exists_is_replaced_when_asked_for_and_only_if_it_is_a_checkpoint(
    small: Path, tmp_path: Path
) -> None:
    package.make("llama", tmp_path / "out", set=SMALL)
    before = digests(tmp_path / "out")
    assert dovetail("convert", small, tmp_path / "out").code == 2
    assert digests(tmp_path / "out") == before
    assert dovetail("convert", small, tmp_path / "out", "--overwrite").code == 0
    assert package.inspect(tmp_path / "out").family == "qwen3"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    answer = dovetail("convert", small, tmp_path / "letters", "--overwrite")
    assert (answer.code, "holds no checkpoint" in answer.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "out", "small"]


@pytest.mark.parametrize("kind", ["file", "device", "link"])
def test_nothing_but_a_folder_is_replaced(kind: str, small: Path, tmp_path: Path) -> None:
    """Whoever writes as root to /dev/null would have a folder there."""
    out = tmp_path / "out"
    if kind == "device":
        os.mkfifo(out)
    else:
        (out if kind == "file" else tmp_path / "letter").write_text("dear")
        if kind == "link":
            out.symlink_to("letter")
    before = out.lstat().st_ino
    answer = dovetail("convert", small, out, "--overwrite")
    assert (answer.code, answer.err) == (
        2,
        f"error: `{out}` is no folder, so --overwrite does not replace it\n\n"
        "hint: choose another name, or remove it yourself\n",
    )
    assert out.lstat().st_ino == before
    assert not (tmp_path / "out.partial").exists()
