"""Damage and loss: refused, or let pass by name, and then written down for whoever comes after."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dovetail as package
from commands import dovetail
from dovetail.errors import CheckpointError, UsageError
from files import MODELS

QWEN3 = {**MODELS["qwen3"][0], "text.q_heads": 4, "text.kv_heads": 2}
NORM = "model.norm.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def made(tmp_path: Path, dtype: str = "bfloat16") -> Path:
    package.make("qwen3", tmp_path / "a", set=QWEN3, dtype=dtype, seed=5)
    return tmp_path / "a"


def changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """The checkpoint with some tensors replaced, or removed."""
    file = folder / "model.safetensors"
    state = load_file(file)
    for name, tensor in tensors.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    save_file(state, file, metadata={"format": "pt"})
    return folder


def certificate(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "dovetail.json").read_text())
    return found


# -- damaged sources


def test_a_lost_tensor_is_refused_and_nothing_written(tmp_path: Path) -> None:
    source = changed(made(tmp_path), **{UP: None})
    answer = dovetail("convert", source, tmp_path / "out", "--to", "litgpt")
    assert (answer.code, "model.layers.1.mlp.up_proj.weight" in answer.err) == (1, True)
    assert "--allow" in answer.err
    assert not (tmp_path / "out").exists()


def test_damage_that_is_let_pass_is_carried_on_and_shown(tmp_path: Path) -> None:
    source = changed(made(tmp_path), **{"extra.thing": torch.ones(3), UP: None})
    with pytest.raises(CheckpointError):
        package.convert(source, tmp_path / "b", allow=["extra.*"])
    package.convert(source, tmp_path / "b", to="litgpt", allow=["extra.*", "model.layers.*.up_proj.weight"])
    first = certificate(tmp_path / "b")["allowed"]
    assert isinstance(first, list)
    assert len(first) == 2
    package.convert(tmp_path / "b", tmp_path / "c", to="hf", allow=["transformer.h.*"])
    again = certificate(tmp_path / "c")["allowed"]
    assert isinstance(again, list)
    assert again[:2] == first
    for folder in ("b", "c"):
        codes = [finding.code for finding in package.inspect(tmp_path / folder).findings]
        assert codes.count("let-pass") >= 2
        assert "missing" in codes


def test_tags_survive_two_conversions(tmp_path: Path) -> None:
    package.convert(made(tmp_path), tmp_path / "b", to="litgpt", pad_vocab=64)
    stamp = certificate(tmp_path / "b")
    stamp["init"] = {"text.norm.weight": "random"} | stamp["init"]  # type: ignore[operator]
    (tmp_path / "b" / "dovetail.json").write_text(json.dumps(stamp))
    package.convert(tmp_path / "b", tmp_path / "c", to="litgpt-legacy")
    package.convert(tmp_path / "c", tmp_path / "d", to="hf")
    assert certificate(tmp_path / "d")["init"] == {
        "text.norm.weight": "random",
        "text.embed.weight": "padded",
    }
    tagged = [one.message for one in package.inspect(tmp_path / "d").findings if one.code == "tagged"]
    assert tagged == [
        "1 parameter is padded: `text.embed.weight`",
        "1 parameter is random: `text.norm.weight`",
    ]


@pytest.mark.parametrize("is_equal", [True, False])
def test_second_names_are_compared_before_anything_is_written(is_equal: bool, tmp_path: Path) -> None:
    package.make("panovlm", tmp_path / "a", set=MODELS["panovlm"][5], layout="cora", dtype="float32")
    (file,) = (tmp_path / "a").glob("*.ckpt")
    content = torch.load(file, weights_only=True)
    state = content["state_dict"]
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(tensor.data_ptr(), []).append(name)
    twice = [pair for pair in names.values() if len(pair) == 2]
    assert twice
    for first, second in twice:
        state[second] = state[first].clone()
    if not is_equal:
        state[twice[-1][1]] += 1
    torch.save(content, file)
    if is_equal:
        package.convert(tmp_path / "a", tmp_path / "b", to="legacy")
        return
    with pytest.raises(CheckpointError, match="two tensors that should be one differ"):
        package.convert(tmp_path / "a", tmp_path / "b", to="legacy")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_values_are_moved_as_they_are_nan_or_not(tmp_path: Path) -> None:
    """Looking for NaN is `validate --values`; moving bytes changes none of them, payloads included."""
    odd = (
        torch.tensor([0x7FC1, 0xFFC0, 0x7F80, 0x8000], dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    )
    source = made(tmp_path)
    norm = load_file(source / "model.safetensors")[NORM].clone()
    norm[:4] = odd
    changed(source, **{NORM: norm})
    package.convert(source, tmp_path / "b", to="litgpt")
    package.convert(tmp_path / "b", tmp_path / "c", to="hf")
    after = load_file(tmp_path / "c" / "model.safetensors")[NORM]
    assert torch.equal(after.view(torch.int16), norm.view(torch.int16))


# -- casts


def test_a_cast_is_torch_s_and_is_counted(tmp_path: Path) -> None:
    source = made(tmp_path, "float32")
    words = ("--dtype", "bfloat16", "--dtype", "*norm*=float32", "--dtype", "text.blocks.2.*=float16")
    answer = dovetail("convert", source, tmp_path / "out", *words, "--json")
    assert answer.code == 0, answer.err
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    counts = {torch.bfloat16: 0, torch.float16: 0, torch.float32: 0}
    for name, tensor in after.items():
        layer_2 = ".layers.2." in name
        wanted = torch.float16 if layer_2 else torch.float32 if "norm" in name else torch.bfloat16
        assert tensor.dtype == wanted, name
        assert torch.equal(tensor, before[name].to(wanted))
        counts[wanted] += 1
    assert {one["what"]: one["tensors"] for one in certificate(tmp_path / "out")["lossy"]} == {  # type: ignore[attr-defined]
        "rounded from F32 to BF16": counts[torch.bfloat16],
        "rounded from F32 to F16": counts[torch.float16],
    }


@pytest.mark.parametrize(("dtype", "value"), [("float16", 70000.0), ("bfloat16", 3.4e38)])
def test_numbers_that_would_become_infinite_stop_the_run_with_their_names(
    dtype: str, value: float, tmp_path: Path
) -> None:
    source = made(tmp_path, "float32")
    state = load_file(source / "model.safetensors")
    state[NORM][2] = value
    state[UP][1, 1] = -value
    state[UP][0, 0] = float("inf")
    changed(source, **{NORM: state[NORM], UP: state[UP]})
    with pytest.raises(CheckpointError, match="would become infinite") as raised:
        package.convert(source, tmp_path / "out", dtype=[dtype])
    assert "`text.norm.weight` (1)" in str(raised.value)
    assert "`text.blocks.1.mlp.up.weight` (1)" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

    kept = {"dtype": [dtype, "*norm*=float32", "*.up.*=float32"]}
    assert package.convert(source, tmp_path / "kept", **kept).overflowed == {}

    allow = ["text.norm.weight", "*mlp.up*"]
    done = package.convert(source, tmp_path / "out", dtype=[dtype], allow=allow)
    assert done.overflowed == {"text.norm.weight": 1, "text.blocks.1.mlp.up.weight": 1}
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert bool(after[NORM][2].isinf())
    package.convert(tmp_path / "out", tmp_path / "again", to="litgpt")
    assert certificate(tmp_path / "again")["allowed"] == certificate(tmp_path / "out")["allowed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bloat16"], "there is no dtype `bloat16`"),
        (["int8"], "there is no dtype `int8`"),
        (["vision.*=float32"], "fits no tensor"),
        (["*.q.*=float32"], "joins tensors of different dtypes"),
    ],
)
def test_a_cast_that_cannot_be_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message.replace("*", r"\*")):
        package.convert(made(tmp_path), tmp_path / "out", to="litgpt", dtype=words)


# -- parts, rows, sizes


def test_a_part_is_left_out_when_asked_for(tmp_path: Path) -> None:
    package.make("qwen2_vl", tmp_path / "a", set=MODELS["qwen2_vl"][0])
    changes = {"without": ["vision", "merger"]}
    package.convert(tmp_path / "a", tmp_path / "out", to="litgpt", **changes)
    with pytest.raises(UsageError, match="has no part `audio`"):
        package.convert(tmp_path / "a", tmp_path / "x", without=["audio"])
    names = torch.load(tmp_path / "out" / "lit_model.pth", weights_only=True).keys()
    assert not any(name.startswith("visual.") for name in names)
    reasons = [one["reason"] for one in certificate(tmp_path / "out")["dropped"]]  # type: ignore[attr-defined]
    assert reasons == ["the part vision, left out as asked", "the part merger, left out as asked"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": ["text"]}, "nothing is left without text"),
        ({"pad_vocab": 0}, "--pad-vocab 0 is no multiple"),
        ({"pad_vocab": -3}, "--pad-vocab -3 is no multiple"),
    ],
)
def test_what_cannot_be_asked_for(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        package.convert(made(tmp_path), tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_padded_rows_are_zeros_and_everybody_is_told(tmp_path: Path) -> None:
    import yaml

    source = made(tmp_path)
    package.convert(source, tmp_path / "out", to="litgpt", pad_vocab=64)
    state = torch.load(tmp_path / "out" / "lit_model.pth", weights_only=True)
    before = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    for name in ("transformer.wte.weight", "lm_head.weight"):
        assert torch.equal(state[name][:211], before)
        assert state[name].shape[0] == 256
        assert not state[name][211:].any()
    config = yaml.safe_load((tmp_path / "out" / "model_config.yaml").read_text())
    assert (config["vocab_size"], config["padded_vocab_size"]) == (211, 256)
    assert certificate(tmp_path / "out")["config"]["text.vocab_used"]["value"] == 211  # type: ignore[index]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 256
    package.convert(tmp_path / "out", tmp_path / "back", to="hf")
    assert certificate(tmp_path / "back")["config"]["text.vocab_used"]["value"] == 211  # type: ignore[index]


def test_no_byte_depends_on_a_convention(tmp_path: Path) -> None:
    """Without a config, head_dim = 128 is what Qwen2 usually has, not what this model has."""
    sizes = {**QWEN3, "text.d_model": 64, "text.head_dim": 64}
    package.make("qwen2", tmp_path / "q", set=sizes)
    (tmp_path / "q" / "config.json").unlink()
    answer = dovetail("convert", tmp_path / "q", tmp_path / "out", "--to", "litgpt-legacy")
    assert (answer.code, "--set text.kv_heads=NUMBER" in answer.err) == (2, True)
    given = {"text.kv_heads": 2}
    package.convert(tmp_path / "q", tmp_path / "out", to="litgpt-legacy", set=given)
    for file in ("config.json", "model_config.yaml", "dovetail.json"):
        (tmp_path / "out" / file).unlink()
    with pytest.raises(UsageError, match="can only be taken apart when kv_heads is known"):
        package.convert(tmp_path / "out", tmp_path / "back", to="hf")
    package.convert(tmp_path / "out", tmp_path / "back", to="hf", set=given)
    before, after = (
        load_file(tmp_path / "q" / "model.safetensors"),
        load_file(tmp_path / "back" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_a_written_config_assumes_is_said(tmp_path: Path) -> None:
    source = made(tmp_path)
    (source / "config.json").unlink()
    answer = dovetail("convert", source, tmp_path / "out", "--to", "litgpt", "--dry-run", "--json")
    assumed = json.loads(answer.out)["assumed"]
    assert "text.rope_theta = 1000000.0 (qwen3 convention)" in assumed
    given = ("--set", "text.rope_theta=5000.0")
    answer = dovetail("convert", source, tmp_path / "out", "--to", "litgpt", "--dry-run", "--json", *given)
    assert not any("rope_theta" in one for one in json.loads(answer.out)["assumed"])
    page = dovetail("convert", source, tmp_path / "out", "--to", "litgpt", "--dry-run").out
    assert "assumed in the config" in page
