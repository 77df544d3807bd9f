"""Without the extra `torch` the verbs that run models say what is missing; all others work."""

from pathlib import Path

import pytest

import dovetail
from commands import python
from dovetail.cli import TORCH_EXTRA

# The import of a module that is None in sys.modules fails as one that is not installed.
WITHOUT = "import sys; sys.modules[{!r}] = None; from dovetail.cli import main; sys.exit(main(sys.argv[1:]))"
RUNNING = {
    "generate": ("generate", "it", "--tokens", "1"),
    "act": ("act", "it", "--tokens", "1", "--state", "1"),
    "validate": ("validate", "it", "--forward"),
}


@pytest.fixture
def it(tmp_path: Path) -> Path:
    sizes = {"text.layers": 1, "text.d_model": 8, "text.q_heads": 2, "text.kv_heads": 1, "text.head_dim": 4}
    dovetail.make("qwen3", tmp_path / "it", set={**sizes, "text.d_ff": 12, "text.vocab": 20})
    return tmp_path


@pytest.mark.parametrize("verb", RUNNING)
def test_what_is_missing_is_said(verb: str, it: Path) -> None:
    answer = python("-c", WITHOUT.format("torch"), *RUNNING[verb], cwd=it)
    assert answer == (2, "", "error: this needs torch\n\nhint: pip install 'dovetail-weights[torch]'\n")


@pytest.mark.parametrize("name", TORCH_EXTRA)
def test_whatever_is_missing(name: str, it: Path) -> None:
    pytest.importorskip(name)
    answer = python("-c", WITHOUT.format(name), *RUNNING["generate"], "--image", "none.png", cwd=it)
    if name == "jinja2":  # is asked for when there is a template
        assert "there is no image" in answer.err
    else:
        assert answer == (2, "", f"error: this needs {name}\n\nhint: pip install 'dovetail-weights[torch]'\n")


def test_header_verbs_need_none(it: Path) -> None:
    answer = python("-c", WITHOUT.format("torch"), "validate", "it", cwd=it)
    assert (answer.code, answer.err) == (0, "")
