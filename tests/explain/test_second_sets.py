"""Weights that are there twice: which set is used is said, in files that torch wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import dovetail
from dovetail.checkpoint import opened
from tiny_models import TEXT

STATE = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TEXT, tie_word_embeddings=True)).state_dict()
AVERAGE = {name: value + 1 for name, value in STATE.items()}
SAID = "a second set of weights `{}` is not used, 39 tensors, first `{}`; used are {}"
FIRST = "model.embed_tokens.weight"


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state.items()}


# what is saved, and what is said of the other set
SETS: dict[str, tuple[dict[str, Any], str | None]] = {
    "Lightning": (
        {"state_dict": STATE, "ema": AVERAGE, "epoch": 3},
        SAID.format("ema", f"ema/{FIRST}", "those under `state_dict/`"),
    ),
    "timm": (
        {"state_dict": STATE, "state_dict_ema": AVERAGE},
        SAID.format("state_dict_ema", f"state_dict_ema/{FIRST}", "those under `state_dict/`"),
    ),
    "torchvision": (
        {"model": STATE, "model_ema": AVERAGE},
        SAID.format("model_ema", f"model_ema/{FIRST}", "those under `model/`"),
    ),
    "modules": (
        {**under("model.", STATE), **under("ema_model.", AVERAGE)},
        SAID.format("ema_model", f"ema_model.{FIRST}", "those under `model.`"),
    ),
    "beside names without a prefix": (
        {**STATE, **under("ema.", AVERAGE)},
        SAID.format("ema", f"ema.{FIRST}", "the others"),
    ),
    "a list of values": (
        {"state_dict": STATE, "ema": {"shadow_params": list(AVERAGE.values()), "decay": 0.9}},
        SAID.format("ema", "ema/shadow_params/0", "those under `state_dict/`"),
    ),
    "the average alone": ({"ema": AVERAGE}, None),
}


@pytest.mark.parametrize("case", SETS)
def test_which_set_is_used_is_said(case: str, tmp_path: Path) -> None:
    content, message = SETS[case]
    torch.save(content, tmp_path / "last.ckpt")
    report = dovetail.inspect(tmp_path / "last.ckpt")
    assert (report.family, report.is_whole) == ("qwen2", True)
    found = [
        (one.severity, one.message, len(one.tensors)) for one in report.findings if one.code == "second-set"
    ]
    assert found == ([("warning", message, 39)] if message else [])
    with opened(tmp_path / "last.ckpt") as checkpoint:
        leaf = checkpoint.leaves["text.norm.weight"]
        used = torch.load(tmp_path / "last.ckpt")
        assert leaf.spans[0].tensor.endswith("model.norm.weight")
        assert leaf.spans[0].tensor.startswith("ema") is (case == "the average alone"), used.keys()
