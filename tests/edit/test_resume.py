"""What a run left that did not end: nothing in it is trusted, and nothing of it is lost."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dovetail as package
from commands import Answer, dovetail
from dovetail.edit.write import execute
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.edit.write.journal import Journal
from dovetail.errors import DovetailError, UsageError
from dovetail.render.html import write_report
from dovetail.store.write import block_file
from files import MODELS
from interrupted import SMALL, TO, digests, end_with, started, wait_for_lines


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
        wait_for_lines(journal, 8, process)
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


TORN = [
    b'{"file": "model-0',
    b'{"plan": 5',
    b"\x00\xff\n",
    b"7\n",
    b"{}\n",
    b'{"file": 1}',
    b'{"file": 1e999, "tensor": [2' + b"0" * 70 + b"]}\n",
    b"[" * 200_000 + b"\n",
    b"9" * 5000 + b"\n",
    b" " * (3 << 20) + b"\n",
]


def test_a_torn_or_odd_line_ends_the_journal(tmp_path: Path) -> None:
    good = b'{"plan": "p"}\n{"file": "f", "tensor": "t"}\n'
    for torn in TORN:
        (tmp_path / JOURNAL).write_bytes(good + torn + b'{"file": "f", "tensor": "u"}\n')
        journal = Journal(str(tmp_path), "p")
        journal.close()
        assert journal.tensors in (
            {("f", "t")},
            {("f", "t"), ("f", "u"), ("inf", "[" + "2" + "0" * 70 + "]")},
        )
        if b"e999" not in torn:
            assert (tmp_path / JOURNAL).read_bytes() == good


def test_a_first_line_that_is_odd_is_no_journal(small: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"something")
    for first in (b"[" * 200_000 + b"\n", b"9" * 5000 + b"\n", b'{"plan": 1e999}\n', b"7\n", b""):
        (partial / JOURNAL).write_bytes(first)
        answer = dovetail("convert", small, tmp_path / "out", "--resume")
        assert (answer.code, "no journal" in answer.err or "begun with other" in answer.err) == (2, True)
        assert f"rm -r {partial}" in answer.err
    assert (partial / "model.safetensors").read_bytes() == b"something"


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are gone on with from a page on, not from 4 MiB, so that small models keep something."""
    for module in (execute, block_file):
        monkeypatch.setattr(module, "BLOCK", 4096)


@pytest.mark.usefixtures("fine")
@pytest.mark.parametrize("name", TO)
@pytest.mark.parametrize(
    "lie", ["nothing", "nothing is written", "all is zeros", "halves are exchanged", "a byte"]
)
def test_a_journal_that_lies_does_no_harm(lie: str, name: str, small: Path, tmp_path: Path) -> None:
    """It says which tensors are done; what is in the file is compared with what belongs there."""
    out, partial, options = tmp_path / "out", tmp_path / "out.partial", keywords(TO[name])
    package.convert(small, out, **options)
    expected = digests(out)
    out.rename(partial)
    (weights,) = (*partial.glob("*.safetensors"), *partial.glob("*.pth"))
    plan = package.plan_convert(small, **options)
    ((file,),) = (output.files for output in plan.outputs)
    with open(partial / JOURNAL, "w") as journal:
        journal.write(json.dumps({"plan": plan.digest}) + "\n")
        for tensor in () if lie == "nothing is written" else file.tensors:
            line = {"file": file.name, "tensor": tensor.name, "start": 2**70, "leaves": {}, "stored": "x"}
            journal.write(json.dumps(line) + "\n")
    data = weights.read_bytes()
    if lie == "all is zeros":
        weights.write_bytes(bytes(len(data)))
    elif lie == "halves are exchanged":
        weights.write_bytes(data[len(data) // 2 :] + data[: len(data) // 2])
    elif lie == "a byte":
        weights.write_bytes(data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
    done = package.convert(small, out, resume=True, **options)
    assert digests(out) == expected
    assert (done.resumed > len(file.tensors) // 2) == (lie == "nothing")


def keywords(words: tuple[str, ...]) -> dict[str, Any]:
    """The words of the command line as those of the library."""
    said = {
        key.removeprefix("--").replace("-", "_"): value
        for key, value in zip(words[::2], words[1::2], strict=True)
    }
    number: dict[str, Callable[[str], Any]] = {
        "pad_vocab": int,
        "max_shard_size": lambda size: int(size.removesuffix("MB")) * 1_000_000,
    }
    return {key: number.get(key, str)(value) for key, value in said.items()}


@pytest.mark.parametrize("kind", ["file", "link", "second name", "folder"])
def test_what_others_put_there_is_not_published(
    kind: str, source: Path, left: Path, whole: dict[str, dict[str, str]]
) -> None:
    """A link would be written through, into a file somewhere else."""
    shard, letter = min(left.glob("*.safetensors")), left.parent / "letter"
    letter.write_text("mine")
    if kind == "link":
        letter.write_bytes(shard.read_bytes())
        shard.unlink()
        shard.symlink_to(letter)
    elif kind == "second name":
        letter.unlink()
        os.link(shard, letter)
    else:
        (left / "notes").mkdir() if kind == "folder" else (left / "notes").write_text("mine")
    before = letter.read_bytes()
    answer = resume(source, left)
    assert (answer.code, "holds what this run does not write" in answer.err) == (2, True)
    assert (shard.name if "n" in kind else "notes") in answer.err
    assert letter.read_bytes() == before
    if kind == "second name":
        letter.unlink()
    elif kind == "link":
        shard.unlink()
    else:
        shutil.rmtree(left / "notes") if kind == "folder" else (left / "notes").unlink()
    assert resume(source, left).code == 0
    assert digests(left.with_suffix("")) == whole["hf"]


def test_what_others_put_there_meanwhile_is_not_published(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even into a run that fails before anything is written."""
    write_file = execute.write_file

    def disturbed(path: str, *words: object, **options: object) -> None:
        (Path(path).parent / "letter").write_text("mine")
        if is_broken:
            raise OSError(5, "broken")
        write_file(path, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "write_file", disturbed)
    for is_broken in (True, False):
        with pytest.raises(DovetailError) as error:
            package.convert(small, tmp_path / "out")
        assert f"kept in `{tmp_path}/out.partial`" in (error.value.hint or "")
        assert (tmp_path / "out.partial" / "letter").read_text() == "mine"
        assert is_broken or "`letter`" in error.value.message
        shutil.rmtree(tmp_path / "out.partial")


def test_what_follows_a_torn_line_is_read_by_the_next_run(tmp_path: Path) -> None:
    """A second kill after a first one: a torn line that stayed would swallow the line after it."""
    for tensor in ("a", "b"):
        journal = Journal(str(tmp_path), "plan")
        journal.add("file", tensor)
        journal.close()
        with open(tmp_path / JOURNAL, "ab") as torn:
            torn.write(b'{"file": "fi')
    journal = Journal(str(tmp_path), "plan")
    journal.close()
    assert journal.tensors == {("file", "a"), ("file", "b")}


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
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / JOURNAL).touch()
    answer = dovetail(*words)
    assert (answer.code, "stops" in answer.err, "is left of a run" in answer.err) == (0, True, True)
    assert "stops" not in dovetail(*words, "--resume").err


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


# -- every verb

SHARDS = {"max_shard_size": 60_000}
VERBS: dict[str, Callable[..., Any]] = {
    "convert": lambda small, out, **more: package.convert(small, out, **SHARDS, **more),
    "split": lambda small, out, **more: package.split(small, out, nodes=2, **more),
    "merge": lambda small, out, **more: package.merge(small.with_name("nodes"), out, **SHARDS, **more),
    "graft": lambda small, out, **more: package.graft([small], out, config=small, **SHARDS, **more),
}


def interrupt_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when one file is written and the next is to be."""
    write_file, begun = execute.write_file, []

    def write(*words: object, **options: object) -> None:
        begun.append(words)
        if len(begun) == 2:
            raise KeyboardInterrupt
        write_file(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "write_file", write)


@pytest.mark.usefixtures("fine")
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_keeps_what_it_finished_and_goes_on(
    verb: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.split(small, tmp_path / "nodes", nodes=2)
    run, out = VERBS[verb], tmp_path / "out"
    run(small, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_second(patch)
        with pytest.raises(KeyboardInterrupt) as interruption:
            run(small, out)
    ways = f"go on with the same command and --resume, or remove it with `rm -r {out}.partial`"
    assert interruption.value.__notes__ == [f"what was written is kept in `{out}.partial`: {ways}"]
    with pytest.raises(UsageError) as error:
        run(small, out)
    assert str(error.value) == f"`{out}.partial` is left of a run that did not end\n\nhint: {ways}"
    done = run(small, out, resume=True)
    assert (done.fingerprint, done.resumed > 0) == (package.fingerprint(small), True)
    assert digests(out) == digests(tmp_path / "whole")
    assert not out.with_suffix(".partial").exists()


@pytest.mark.usefixtures("fine")
def test_a_graft_of_another_seed_is_that_of_its_own_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan says what is fresh and not how, so what is kept is what would be written now."""
    package.make("qwen2", tmp_path / "lm", set=MODELS["qwen2"][0])
    package.make("llava_onevision", tmp_path / "like", set=MODELS["llava_onevision"][0])

    def run(out: str, **more: Any) -> Any:
        donors, config = [tmp_path / "lm"], tmp_path / "like"
        return package.graft(donors, tmp_path / out, config=config, max_shard_size=30_000, **more)

    run("whole", seed=2)
    resumed = []
    for seed in (1, 2):
        with monkeypatch.context() as patch:
            interrupt_second(patch)
            with pytest.raises(KeyboardInterrupt):
                run("out", seed=seed)
        resumed.append(run("out", seed=2, resume=True).resumed)
        assert digests(tmp_path / "out") == digests(tmp_path / "whole")
        shutil.rmtree(tmp_path / "out")
    assert resumed[0] < resumed[1]


def test_make_takes_back_what_it_makes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "two.partial").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("dovetail.edit.make.index_of", lambda _: "{}")
        patch.setattr("dovetail.edit.make.check_files", interrupt)
        with pytest.raises(KeyboardInterrupt):
            package.make("qwen3", tmp_path / "one", set=SMALL)
    with pytest.raises(UsageError, match="remove it with `rm -r"):
        package.make("qwen3", tmp_path / "two", set=SMALL)
    assert os.listdir(tmp_path) == ["two.partial"]


def test_small_files_leave_nothing_beside_them_when_they_are_interrupted(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stamp or a report is written in an instant out of what takes minutes to find: the old one stays."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    report = package.validate(small)
    for run in (
        lambda: package.stamp(small, values=False),
        lambda: write_report(report, str(tmp_path / "report")),
    ):
        before = digests(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run()
        assert digests(tmp_path) == before
