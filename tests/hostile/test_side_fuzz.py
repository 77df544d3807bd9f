"""Odd side files of seven families, which transformers wrote: every verb ends in an answer or a clear error."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.cli import main
from hostile.side_files import odd
from run.beside import SAVERS

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = (".safetensors", ".model")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: SAVERS[name](tmp_path_factory.mktemp(name)).folder for name in SAVERS}


def runs(folder: Path, out: Path) -> Iterator[list[str]]:
    """What a user does with a checkpoint, the outputs removed in between."""
    for words in (
        ["inspect", str(folder)],
        ["validate", str(folder), "--values"],
        ["convert", str(folder), str(out / "converted"), "--no-sync"],
        ["stamp", str(folder), "--out", str(out / "stamped")],
        ["generate", str(folder), "--prompt", "Hello there", "--max-new-tokens", "2"],
    ):
        yield words
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 512), marks=pytest.mark.slow)])
def test_nothing_odd_is_our_failure(
    seeds: range, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in seeds:
        chance = Random(seed)
        source = folders[chance.choice(sorted(folders))]
        files = sorted(file.name for file in source.iterdir())
        changed = chance.choice([name for name in files if not name.endswith(WEIGHTS)])
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in files:
            if name != changed:
                (folder / name).hardlink_to(source / name)
        (folder / changed).write_bytes(odd((source / changed).read_bytes(), chance))
        for words in runs(folder, tmp_path / "out"):
            code = main(words)
            said = capsys.readouterr()
            assert code in (0, 1, 2), (seed, changed, words[0], said.err)
            assert code == 0 or said.out or said.err.startswith("error: "), (seed, changed, words[0])
