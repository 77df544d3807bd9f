"""Header-only verbs import nothing heavy, in a process of its own; and this test can fail."""

from pathlib import Path

import pytest

from commands import dovetail, python
from files import MODELS, header_of, plan_of, write_listing

HEAVY = ("numpy", "torch", "transformers", "safetensors", "huggingface_hub", "pydantic", "yaml", "blake3")
ON_A_TERMINAL = ("rich",)

# Runs one command as `dovetail` does, then says which modules are loaded.
SCRIPT = """
import sys
from dovetail.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
sys.stdout = sys.stderr
print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def heavy(*words: str | Path, cwd: Path) -> list[str]:
    """The heavy packages that a piped command imports."""
    answer = python("-c", SCRIPT, *words, cwd=cwd)
    loaded = answer.err.rpartition("loaded:")[2].split()
    assert "dovetail" in loaded, answer.err
    return [name for name in (*HEAVY, *ON_A_TERMINAL) if name in loaded]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds a sparse checkpoint, a header listing, and its config."""
    assert (
        dovetail("make", "siglip", "whole", "--size", "so400m-patch14-378", "--sparse", cwd=tmp_path).code
        == 0
    )
    write_listing(tmp_path / "listing.json", header_of(plan_of("qwen3", MODELS["qwen3"][0]), "hf"))
    write_listing(tmp_path / "unknown.json", {"a.weight": ["BF16", [3, 5]]})
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "inspect --help",
        "inspect whole",
        "inspect whole --json",
        "inspect listing.json",
        "inspect unknown.json",
        "inspect absent",
        "validate whole",
        "validate whole --json",
        "validate whole --as siglip/hf",
        "validate whole --report out",
        "ls whole",
        "inspect whole --memory --nodes 2",
        "families",
        "families --json",
        "make siglip new --sparse",
        "diff whole whole",
        "diff whole whole --json",
        "stamp whole --no-values",
        "stamp whole --dry-run",
    ],
)
def test_a_header_verb_imports_nothing_heavy(words: str, folder: Path) -> None:
    assert heavy(*words.split(), cwd=folder) == []


def test_what_reads_values_imports_numpy_and_nothing_else(folder: Path) -> None:
    """So the test above can fail: it would see numpy."""
    assert heavy("validate", "whole", "--values", cwd=folder) == ["numpy"]


def test_only_the_families_up_to_the_one_that_fits_are_imported(folder: Path) -> None:
    """`find` stops at a family of several parts that explains a file; others are not needed to know it."""
    assert dovetail("make", "qwen2_vl", "first", "--sparse", cwd=folder).code == 0
    script = SCRIPT.replace('name.partition(".")[0]', "name")
    loaded = python("-c", script, "inspect", "first", cwd=folder).err.rpartition("loaded:")[2].split()
    families = {name.rpartition(".")[2] for name in loaded if name.startswith("dovetail.families.")}
    assert "qwen2_vl" in families
    assert not families & {"pi0", "panovlm", "prismatic", "llava_onevision"}


@pytest.mark.parametrize("package", [*HEAVY, *ON_A_TERMINAL])
def test_every_package_of_the_list_would_be_seen(package: str) -> None:
    """Each can be imported here, under the name that the test looks for."""
    answer = python("-c", f"import {package}\n{SCRIPT}", "--version")
    assert package in answer.err.rpartition("loaded:")[2].split()


def test_import_dovetail_imports_nothing_of_dovetail() -> None:
    """The public names come when they are asked for."""
    script = "import sys, dovetail; print(*(name for name in sys.modules if name.startswith('dovetail')))"
    assert python("-c", script).out.split() == ["dovetail"]


# What only some checkpoints or options need, and what the standard library would bring with it.
RARE = (
    *("dovetail.explain.traits", "dovetail.explain.given", "dovetail.explain.wanted"),
    *("dovetail.cli.sizes", "dovetail.edit", "shutil", "shlex", "urllib"),
)


def test_a_plain_checkpoint_is_told_without_what_few_need(folder: Path) -> None:
    script = SCRIPT.replace('{name.partition(".")[0] for name in sys.modules}', "sys.modules")
    for words in (["inspect", "whole"], ["validate", "whole"]):
        loaded = python("-c", script, *words, cwd=folder).err.rpartition("loaded:")[2].split()
        assert "dovetail.explain.examine" in loaded
        assert [name for name in RARE if name in loaded] == [], words
    given = python("-c", script, "inspect", "whole", "--set", "vision.heads=16", cwd=folder)
    assert "dovetail.explain.given" in given.err.rpartition("loaded:")[2].split()
