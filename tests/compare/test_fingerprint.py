"""The fingerprint: one for each set of weights, whatever they are stored in."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file

import dovetail
from dovetail.compare.fingerprint import identify
from dovetail.errors import CheckpointError
from files import MODELS, header_of, plan_of, write_listing

# the tensors of a Qwen2 of one layer, as transformers and as dovetail call them
LAYER = {
    "input_layernorm.weight": "norm1.weight",
    "self_attn.q_proj.weight": "attn.q.weight",
    "self_attn.q_proj.bias": "attn.q.bias",
    "self_attn.k_proj.weight": "attn.k.weight",
    "self_attn.k_proj.bias": "attn.k.bias",
    "self_attn.v_proj.weight": "attn.v.weight",
    "self_attn.v_proj.bias": "attn.v.bias",
    "self_attn.o_proj.weight": "attn.o.weight",
    "post_attention_layernorm.weight": "norm2.weight",
    "mlp.gate_proj.weight": "mlp.gate.weight",
    "mlp.up_proj.weight": "mlp.up.weight",
    "mlp.down_proj.weight": "mlp.down.weight",
}
QWEN2 = {
    "model.embed_tokens.weight": "text.embed.weight",
    "model.norm.weight": "text.norm.weight",
    **{f"model.layers.0.{stored}": f"text.blocks.0.{leaf}" for stored, leaf in LAYER.items()},
}


def made(path: Path, family: str = "qwen2", number: int = 0, **options: Any) -> Path:
    """A tiny checkpoint with random values."""
    options = {"dtype": "float32", "seed": 5, **options}
    dovetail.make(family, path, set=MODELS[family][number], **options)
    return path


@pytest.mark.parametrize(
    "changes",
    [{"format": "safetensors"}, {"format": "pth"}, {"max_shard_size": 50_000}],
    ids=["safetensors", "pth", "shards"],
)
def test_containers_and_shards_do_not_matter(changes: dict[str, Any], tmp_path: Path) -> None:
    made(tmp_path / "a")
    dovetail.convert(tmp_path / "a", tmp_path / "b", **changes)
    assert dovetail.fingerprint(tmp_path / "a") == dovetail.fingerprint(tmp_path / "b")


def test_it_is_what_the_documentation_says(tmp_path: Path) -> None:
    """Computed again by hand from what the safetensors library reads."""
    sizes = {**MODELS["qwen2"][0], "text.layers": 1}
    dovetail.make("qwen2", tmp_path / "a", set=sizes, dtype="float32", seed=5)
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert tensors.keys() == QWEN2.keys()
    lines = sorted(
        f"{QWEN2[name]} F32 {list(value.shape)} {blake3(value.numpy().tobytes()).hexdigest()}\n"
        for name, value in tensors.items()
    )
    expected = blake3(("qwen2\n" + "".join(lines)).encode()).hexdigest()
    assert dovetail.fingerprint(tmp_path / "a") == expected


def test_one_changed_number_changes_it(tmp_path: Path) -> None:
    made(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].view(torch.int32)[3, 5] ^= 1
    save_file(tensors, tmp_path / "b" / "model.safetensors")
    assert dovetail.fingerprint(tmp_path / "a") != dovetail.fingerprint(tmp_path / "b")


def test_a_copy_of_the_tied_head_does_not_matter_and_another_head_does(tmp_path: Path) -> None:
    made(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    embed = tensors["model.embed_tokens.weight"]
    for name, head in (("copy", embed.clone()), ("other", embed + 1)):
        shutil.copytree(tmp_path / "a", tmp_path / name)
        save_file({**tensors, "lm_head.weight": head}, tmp_path / name / "model.safetensors")
    one, copy, other = (dovetail.fingerprint(tmp_path / name) for name in ("a", "copy", "other"))
    assert one == copy
    assert one != other


def test_holes_are_the_zeros_that_they_stand_for(tmp_path: Path) -> None:
    made(tmp_path / "sparse", sparse=True)
    shutil.copytree(tmp_path / "sparse", tmp_path / "full")
    weights = tmp_path / "full" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert dovetail.fingerprint(tmp_path / "sparse") == dovetail.fingerprint(tmp_path / "full")


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = identify(made(tmp_path / "a"), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (found.bytes, found.bytes)
    assert told == sorted(told)


def test_a_damaged_checkpoint_has_none(tmp_path: Path) -> None:
    made(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot be fingerprinted .*`model.norm.weight`"):
        dovetail.fingerprint(tmp_path / "a")


def test_copies_that_differ_are_named(tmp_path: Path) -> None:
    made(tmp_path / "a", "panovlm", layout="legacy")
    content = torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)
    name = "model.resampler.input_proj.bias"
    content["state_dict"][name] = content["state_dict"][name] + 1
    torch.save(content, tmp_path / "a" / "last.ckpt")
    with pytest.raises(CheckpointError, match="two tensors that should be one differ") as caught:
        dovetail.fingerprint(tmp_path / "a")
    assert caught.value.details["tensor"].endswith(name)


def test_a_listing_has_no_values(tmp_path: Path) -> None:
    write_listing(tmp_path / "it.json", header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf"))
    with pytest.raises(CheckpointError, match="names and shapes only"):
        dovetail.fingerprint(tmp_path / "it.json")
