"""What a run left that did not end: nothing in it is trusted, and nothing of it is lost."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import dovetail as package
from commands import Answer, dovetail
from dovetail.edit.write import execute
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.edit.write.journal import Journal
from dovetail.errors import DovetailError
from interrupted import TO, digests, end_with, started, wait_for_lines


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


@pytest.mark.parametrize("name", TO)
@pytest.mark.parametrize("lie", ["nothing is written", "all is written", "all is zeros", "two are exchanged"])
def test_a_journal_that_lies_does_no_harm(lie: str, name: str, small: Path, tmp_path: Path) -> None:
    """It says which tensors are done; what is in the file is compared with what belongs there."""
    words = ("convert", small, tmp_path / "out", *TO[name])
    assert dovetail(*words).code == 0
    expected = digests(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    partial = tmp_path / "out.partial"
    (weights,) = (*partial.glob("*.safetensors"), *partial.glob("*.pth"))
    plan = package.plan_convert(small, **keywords(TO[name]))
    (output,) = plan.outputs
    (file,) = output.files
    with open(partial / JOURNAL, "w") as journal:
        journal.write(json.dumps({"plan": plan.digest}) + "\n")
        for tensor in () if lie == "nothing is written" else file.tensors:
            line = {"file": file.name, "tensor": tensor.name, "start": 2**70, "leaves": {}, "stored": "x"}
            journal.write(json.dumps(line) + "\n")
    data = weights.read_bytes()
    if lie == "all is zeros":
        weights.write_bytes(bytes(len(data)))
    elif lie == "two are exchanged":
        weights.write_bytes(data[: len(data) // 2] + data[-(len(data) - len(data) // 2) :][::-1])
    answer = dovetail(*words, "--resume", "--json")
    assert answer.code == 0, answer.err
    assert digests(tmp_path / "out") == expected


def keywords(words: tuple[str, ...]) -> dict[str, object]:
    """The words of the command line as those of the library."""
    said = {
        key.removeprefix("--").replace("-", "_"): value
        for key, value in zip(words[::2], words[1::2], strict=True)
    }
    number = {"pad_vocab": int, "max_shard_size": lambda size: int(size.removesuffix("MB")) * 1_000_000}
    return {key: number.get(key, str)(value) for key, value in said.items()}  # type: ignore[operator]


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
