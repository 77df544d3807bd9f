"""A family that another package brings: built, installed and found through its entry point."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import dovetail, python
from files import MODELS, header_of, plan_of, write_listing

EXAMPLE = Path(__file__).parents[2] / "docs" / "guides" / "example_family"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH into which pip installed the example of docs/guides/family.md."""
    folder = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(EXAMPLE, folder / "source")
    offline = "--no-index --no-build-isolation --no-deps --disable-pip-version-check --quiet"
    answer = python("-m", "pip", "install", *offline.split(), "--target", folder / "site", source)
    assert answer.code == 0, answer.err
    return folder / "site"


def test_the_package_is_installed_and_not_only_on_the_path(site: Path) -> None:
    (about,) = site.glob("*.dist-info")
    assert "[dovetail.families]" in (about / "entry_points.txt").read_text()
    assert (site / "peephole" / "model.py").is_file()


def test_families_lists_it_after_the_built_in_ones(site: Path) -> None:
    known = json.loads(dovetail("families", "--json", PYTHONPATH=str(site)).out)
    without = json.loads(dovetail("families", "--json").out)
    assert [one["family"] for one in known] == [*(one["family"] for one in without), "peephole"]
    assert known[-1]["parts"]["resampler"] == ["peephole_resampler"]
    assert [one["id"] for one in known[-1]["layouts"]] == ["hf", "trainer"]


@pytest.mark.parametrize("layout", ["hf", "trainer"])
def test_make_inspect_and_validate_know_it(layout: str, site: Path, tmp_path: Path) -> None:
    made = dovetail(
        "make", "peephole", "door", "--layout", layout, "--sparse", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert made.code == 0, made.err
    answer = dovetail("inspect", "door", "--json", cwd=tmp_path, PYTHONPATH=str(site))
    report = json.loads(answer.out)
    assert (answer.code, report["family"], report["layout"]) == (0, "peephole", layout)
    assert report["config"]["resampler.queries"]["value"] == 64
    asserted = dovetail("validate", "door", "--as", f"peephole/{layout}", cwd=tmp_path, PYTHONPATH=str(site))
    assert asserted.code == 0, asserted.err


def test_its_model_loads_and_speaks(site: Path, tmp_path: Path) -> None:
    """In every layout, from the command line, with nothing of dovetail touched."""
    sizes = (
        "vision.layers=2 vision.d_vision=66 vision.heads=6 vision.d_ff=71 vision.patch=5 vision.positions=49 "
        "text.layers=3 text.d_model=61 text.q_heads=4 text.kv_heads=2 text.head_dim=14 text.d_ff=83 "
        "text.vocab=211 resampler.queries=5 resampler.layers=2 resampler.heads=6"
    )
    settings = [word for size in sizes.split() for word in ("--set", size)]
    here = {"cwd": tmp_path, "PYTHONPATH": str(site)}
    made = dovetail("make", "peephole", "door", "--dtype", "float32", *settings, **here)
    assert made.code == 0, made.err
    answer = dovetail("convert", "door", "other", "--to", "trainer", **here)
    assert answer.code == 0, answer.err
    save_image(tmp_path / "x.png")
    said = []
    for folder in ("door", "other"):
        answer = dovetail(
            *(
                "generate",
                folder,
                "--tokens",
                "7,3,11",
                "--image",
                "x.png",
                "--max-new-tokens",
                "4",
                "--json",
            ),
            **here,
        )
        assert answer.code == 0, answer.err
        said.append(json.loads(answer.out)["tokens"])
    assert len(said[0]) == 4
    assert said[0] == said[1]


def save_image(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_without_the_package_nobody_knows_it(site: Path, tmp_path: Path) -> None:
    """So the tests above can fail."""
    dovetail("make", "peephole", "door", "--sparse", cwd=tmp_path, PYTHONPATH=str(site))
    answer = dovetail("inspect", "door", "--json", cwd=tmp_path)
    assert (answer.code, json.loads(answer.out)["family"]) == (1, None)
    asserted = dovetail("validate", "door", "--as", "peephole", cwd=tmp_path)
    assert (asserted.code, asserted.err.splitlines()[0]) == (2, "error: no family is called `peephole`")


@pytest.mark.slow
def test_the_tests_of_the_package_pass_where_it_is_installed(site: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "test_peephole.py", tmp_path)
    answer = python(
        "-m", "pytest", "-q", "-p", "no:randomly", "test_peephole.py", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert answer.code == 0, answer.out
    assert " passed" in answer.out
    assert "skipped" not in answer.out


def bring(site: Path, module: str) -> None:
    """Puts a package with an entry point into a folder for PYTHONPATH."""
    (site / "odd.py").write_text(module)
    about = site / "odd_families-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: odd-families\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dovetail.families]\nodd = odd:FAMILY\n")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("FAMILY = 3", "entry point `odd` gives no family\n  found    int"),
        ("from dovetail.families.text import QWEN2_FAMILY as FAMILY", "two families are called `qwen2`"),
        (
            "import no_such",
            "entry point `odd` cannot be loaded: ModuleNotFoundError: No module named 'no_such'",
        ),
        ("raise ValueError('boom')", "entry point `odd` cannot be loaded: ValueError: boom"),
        (
            "from dovetail.declare.part import Part\nPart(id='x', table='a', namings={}).leaves",
            "entry point `odd` cannot be loaded: DeclarationError: a leaf row has a name, a shape and marks: ['a']",
        ),
    ],
)
def test_a_package_that_brings_something_else_is_named(module: str, message: str, tmp_path: Path) -> None:
    bring(tmp_path, module)
    answer = dovetail("families", PYTHONPATH=str(tmp_path))
    assert (answer.code, answer.out) == (3, "")
    expected = f"error: {message}\n  value    odd:FAMILY\n  package  odd-families\n\nhint: repair or uninstall `odd-families`\n"
    assert answer.err == expected


def test_a_broken_package_is_in_nobodys_way(tmp_path: Path) -> None:
    """Who has a file of a built-in family never meets it."""
    bring(tmp_path, "import no_such")
    listing = write_listing(tmp_path / "x.json", header_of(plan_of("qwen3", MODELS["qwen3"][0]), "hf"))
    assert dovetail("inspect", listing, PYTHONPATH=str(tmp_path)).code == 0
    assert dovetail("validate", listing, "--as", "qwen3", PYTHONPATH=str(tmp_path)).code == 0
