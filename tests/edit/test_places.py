"""Where a result may go: not where it would harm its source, nor where something else than a checkpoint is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import dovetail as package
from commands import dovetail
from dovetail.edit.write import execute
from dovetail.errors import WriteError
from interrupted import SMALL


def texts(folder: Path) -> dict[str, bytes]:
    """Every file by what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("place", "why"),
    [("small", "is the source itself"), ("small/out", "is inside the source"), (".", "is around the source")],
)
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_place_that_would_harm_the_source_is_refused(
    place: str, why: str, more: tuple[str, ...], small: Path, tmp_path: Path
) -> None:
    before = texts(tmp_path)
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
    assert texts(tmp_path) == before


def test_what_exists_is_replaced_when_asked_for_and_only_if_it_is_a_checkpoint(
    small: Path, tmp_path: Path
) -> None:
    package.make("llama", tmp_path / "out", set=SMALL)
    before = texts(tmp_path / "out")
    assert dovetail("convert", small, tmp_path / "out").code == 2
    assert texts(tmp_path / "out") == before
    assert dovetail("convert", small, tmp_path / "out", "--overwrite").code == 0
    assert package.inspect(tmp_path / "out").family == "qwen3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small"]


def put(folder: Path, name: str, text: bytes = b"mine") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text)


NO_CHECKPOINT = [
    ["a.txt"],
    ["disk.bin", "a.txt"],
    ["disk.bin"],
    ["thesis.txt", "chunks/one.txt"],
    ["thesis.txt", "chunks/model_starter.pth"],
    ["node0/model.safetensors", "node0/thesis.txt"],
    ["dovetail.json", "thesis.txt"],
]


@pytest.mark.parametrize("names", NO_CHECKPOINT, ids=", ".join)
def test_a_folder_that_is_called_like_a_checkpoint_is_not_replaced(
    names: list[str], small: Path, tmp_path: Path
) -> None:
    for name in names:
        put(tmp_path / "out", name)
    before = texts(tmp_path)
    answer = dovetail("convert", small, tmp_path / "out", "--overwrite")
    assert (answer.code, f"`{tmp_path}/out` holds no checkpoint" in answer.err) == (2, True)
    assert texts(tmp_path) == before


OTHERS = [
    "thesis.txt",
    "optimizer.pt",
    "pytorch_model.bin",
    "backup/model.safetensors",
    "backup/config.json",
    "train.py",
    ".git/HEAD",
    "photos/a.jpg",
    "report.html",
]


def test_what_stands_beside_a_checkpoint_is_named_and_not_lost(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "out")
    for name in OTHERS:
        put(tmp_path / "out", name)
        before = texts(tmp_path)
        answer = dovetail("convert", small, tmp_path / "out", "--overwrite")
        assert (answer.code, answer.err) == (
            2,
            f"error: `{tmp_path}/out` holds more than a checkpoint, so --overwrite does not replace it\n"
            f"  would_be_lost  {name}\n\n"
            "hint: move these files away, or choose another name\n",
        )
        assert texts(tmp_path) == before
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    answer = dovetail("convert", small, tmp_path / "out", "--overwrite")
    assert (answer.code, "would_be_lost  link" in answer.err) == (2, True)


BESIDE = [
    "README.md",
    "LICENSE",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
    "generation_config.json",
    ".gitattributes",
    ".cache/huggingface/download/model.safetensors.metadata",
]


@pytest.mark.parametrize("how", ["convert", "shards", "litgpt", "split", "chunks", "modules"])
def test_whatever_is_written_here_can_be_replaced(how: str, small: Path, tmp_path: Path) -> None:
    for name in BESIDE:
        put(small, name)
    if how == "modules":
        config = (small / "config.json").read_text()
        (small / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModel": "a.Model"},', 1))
        put(small, "modeling_a.py")
    words = {
        "shards": ("convert", "--max-shard-size", "100KB"),
        "litgpt": ("convert", "--to", "litgpt"),
        "split": ("split", "--nodes", "2"),
        "chunks": ("split", "--nodes", "2", "--to", "litgpt"),
    }
    verb, *more = words.get(how, ("convert",))
    assert dovetail(verb, small, tmp_path / "out", *more).code == 0
    for name in BESIDE if verb == "convert" else ():
        put(tmp_path / "out", name)
    first = texts(tmp_path / "out")
    assert (how == "modules") == ("modeling_a.py" in first)
    answer = dovetail(verb, small, tmp_path / "out", *more, "--overwrite")
    assert answer.code == 0, answer.err
    assert texts(tmp_path / "out").keys() == first.keys() - {BESIDE[-1], BESIDE[-2]}


def test_what_appears_meanwhile_is_kept_and_so_is_the_work(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write_file = tmp_path / "out", execute.write_file

    def disturbed(*words: object, **options: object) -> None:
        write_file(*words, **options)  # type: ignore[arg-type]
        put(out, "thesis.txt")

    monkeypatch.setattr(execute, "write_file", disturbed)
    with pytest.raises(WriteError, match="appeared while it was written") as error:
        package.convert(small, out)
    assert f"kept in `{out}.partial`: go on with the same command and --resume" in str(error.value)
    monkeypatch.undo()
    assert texts(out) == {"thesis.txt": b"mine"}
    assert dovetail("convert", small, out, "--resume", "--overwrite").code == 2
    shutil.rmtree(out)
    assert dovetail("convert", small, out, "--resume").code == 0
    assert package.fingerprint(out) == package.fingerprint(small)
    assert sorted(os.listdir(tmp_path)) == ["out", "small"]


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--dry-run",)])
def test_a_mount_point_is_refused_before_anything_is_written(
    more: tuple[str, ...], small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root")
    try:
        answer = dovetail("convert", small, out, *more)
        assert (answer.code, f"`{out}` is a mount point" in answer.err) == (
            0 if "--dry-run" in more else 2,
            True,
        )
        assert sorted(os.listdir(tmp_path)) == ["out", "small"]
        assert dovetail("convert", small, out / "model").code == 0
    finally:
        subprocess.run(["umount", str(out)], check=True)


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
