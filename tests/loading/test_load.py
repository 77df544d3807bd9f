"""Loading: views of the file, dtypes, ties, parts and stages; what is not whole is refused."""

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import CheckpointError, DovetailError, UsageError
from dovetail.families import family
from dovetail.models.attention import Here, Sight
from files import scoped
from hubserver import hub_server
from run.tiny import DECODER, SIZES, output

Tensors = dict[str, Any]
WEIGHTS = "model.safetensors"


def made(folder: Path, id: str = "qwen2_vl", case: int = 0, **options: Any) -> Path:
    options = {"dtype": "float32", "seed": 3, "set": SIZES[id][case], **options}
    return Path(dovetail.make(id, folder, **options).path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return made(tmp_path / "whole")


def changed(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """The folder with its weights changed."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def refusal(load: Callable[[], object], folder: Path) -> str:
    with pytest.raises(DovetailError) as error:
        load()
    return str(error.value).replace(str(folder), "FOLDER")


def test_weights_are_views_that_never_change_the_file(whole: Path) -> None:
    before = (whole / WEIGHTS).read_bytes()
    model = dovetail.load(whole)
    stored = load_file(whole / WEIGHTS)
    assert torch.equal(model.text.norm.weight, stored["model.norm.weight"])
    other = dovetail.load(whole)
    with torch.no_grad():
        model.text.norm.weight += 1
    assert not torch.equal(model.text.norm.weight, other.text.norm.weight)
    del model
    assert (whole / WEIGHTS).read_bytes() == before


def resident(path: Path) -> int:
    """The kilobytes of a mapped file that this process has touched."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    return sum(int(line.split()[1]) for i in starts for line in lines[i : i + 8] if line.startswith("Rss:"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
def test_loading_reads_no_weights_that_stay_as_they_are(tmp_path: Path) -> None:
    sizes = {**SIZES["qwen2"][0], "text.vocab": 400_000}
    folder = made(tmp_path / "large", "qwen2", set=sizes)
    model = dovetail.load(folder)
    assert resident(folder / WEIGHTS) < 1000
    model.text.embed.weight.detach().sum()
    assert resident(folder / WEIGHTS) > 40_000
    del model
    cast = dovetail.load(folder, dtype="bfloat16")
    assert resident(folder / WEIGHTS) == 0
    assert cast.text.embed.weight.dtype == torch.bfloat16


def test_every_weight_can_be_trained(whole: Path) -> None:
    model = dovetail.load(whole)
    assert not model.training
    assert all(weight.requires_grad for weight in model.parameters())
    inputs = model.prepare([[5, 6, 7]])
    model(**inputs).sum().backward()
    assert model.text.blocks["0"].attn.q.weight.grad is not None


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", torch.float16])
def test_all_weights_are_cast(whole: Path, dtype: Any) -> None:
    model = dovetail.load(whole, dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert {weight.dtype for weight in model.parameters()} == {wanted}
    plain = dovetail.load(whole)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, plain.get_parameter(name).to(wanted))


def test_what_a_family_keeps_in_float32_stays(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family("qwen2_vl"), "float32", ("text.blocks.*.norm?.*",))
    narrow = dict(dovetail.load(whole, dtype="bfloat16").named_parameters())
    wide = {name for name, weight in narrow.items() if weight.dtype == torch.float32}
    assert wide == {f"text.blocks.{i}.norm{k}.weight" for i in range(3) for k in (1, 2)}
    same = dovetail.load(whole, dtype="float64").named_parameters()
    assert {weight.dtype for _, weight in same} == {torch.float64}


def test_the_report_comes_with_the_model(whole: Path) -> None:
    report = dovetail.load(whole, settings={"text.norm_eps": 0.5}).report
    assert (report.family, report.layout) == ("qwen2_vl", "hf")
    assert report.config["text.norm_eps"][:2] == (0.5, "stamp")
    assert dovetail.load(whole, settings={"text.norm_eps": 0.5}).text.norm.eps == 0.5


def test_a_stored_copy_of_the_table_is_the_table(tmp_path: Path) -> None:
    folder = made(tmp_path / "litgpt", layout="litgpt")
    model = dovetail.load(folder)
    assert model.head is None
    assert "head.weight" not in model.state_dict()
    assert dovetail.load(made(tmp_path / "hf")).state_dict().keys() == model.state_dict().keys()


def test_a_head_of_its_own_stays(tmp_path: Path) -> None:
    folder = made(tmp_path / "hf", case=1)
    assert dovetail.load(folder).head is not None
    copied = changed(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert dovetail.load(copied).head is not None  # the config says that they are two


PARTS = ["vision", "merger", "text"]


def test_parts_are_the_parts_of_the_whole(whole: Path) -> None:
    model = dovetail.load(whole)
    for role in PARTS:
        part = dovetail.load_part(whole, role).state_dict()
        expected = model.get_submodule(role).state_dict()
        assert part.keys() == expected.keys()
        assert all(torch.equal(one, expected[name]) for name, one in part.items())
    head = dovetail.load_part(whole, "head")
    assert torch.equal(head.weight, model.text.embed.weight)


@pytest.mark.parametrize("cuts", [[0, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_stages_one_after_the_other_are_the_decoder(whole: Path, cuts: list[int]) -> None:
    model = dovetail.load(whole)
    stages = [dovetail.load_part(whole, "text", layers=range(start, end)) for start, end in pairwise(cuts)]
    names = [name for stage in stages for name in stage.state_dict()]
    assert sorted(names) == sorted(model.text.state_dict())
    tokens = torch.tensor([[3, 9, 27, 81]])
    with torch.no_grad():
        inputs = model.prepare(tokens.tolist())
        stream = model.embed(**inputs)
        expected = model.hidden(stream)
        x = stages[0].embed(tokens)
        for stage in stages:
            mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
            x = stage(x, model.rotation(stream), [Here(Sight(mask))] * len(stage.blocks))
    assert torch.equal(x, expected)


REFUSED: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a tensor is missing": (
        lambda f: dovetail.load(changed(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))),
        "the checkpoint is not whole: Qwen2-VL, 1 of 69 tensors missing (config.json says `qwen2_vl`)\n"
        "  file    FOLDER\n"
        "  also 2  1 of 38 tensors of text is missing: `model.layers.1.mlp.up_proj.weight`\n\nhint: a loader would leave this random; find the file that has it",
    ),
    "a tensor is not known": (
        lambda f: dovetail.load(changed(f, lambda t: t.update({"model.layers.1.x": torch.zeros(3)}))),
        "the checkpoint is not whole: `model.layers.1.x` fits nothing in qwen2_vl\n  file  FOLDER\n\n"
        "hint: a loader would drop this silently; dovetail will not",
    ),
    "a shape is wrong": (
        lambda f: dovetail.load(
            changed(f, lambda t: t.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(28, 26)}))
        ),
        "the checkpoint is not whole: `model.layers.1.mlp.up_proj.weight` is [28, 26], "
        "2 others like it [29, 26]\n  file  FOLDER\n\nhint: `dovetail validate` says everything about it",
    ),
    "numbers that are no weights": (
        lambda f: dovetail.load(
            changed(f, lambda t: t.update({name: one.to(torch.int8) for name, one in t.items()}))
        ),
        "the checkpoint is not whole: `visual.patch_embed.proj.weight` and 68 more are I8: weights are "
        "floating-point numbers\n"
        "  file  FOLDER\n\n"
        "hint: a tool changed their type, or quantised them in a way that is not known here; find the file that "
        "it was made from",
    ),
    "no config": (
        lambda f: dovetail.load(without(f, "config.json")),
        "to run qwen2_vl, vision.heads, text.q_heads, text.kv_heads, text.head_dim must be known, and nothing "
        "says it\n"
        "  vision.heads   weights cannot show it\n"
        "  text.q_heads   the weights only say text.head_dim text.q_heads = 84\n"
        "  text.kv_heads  the weights only say text.head_dim text.kv_heads = 42\n"
        "  text.head_dim  the weights only say text.head_dim text.q_heads = 84\n\n"
        'hint: put the model\'s config.json beside the weights, or give settings={"vision.heads": ..., '
        '"text.q_heads": ..., "text.kv_heads": ... and 1 more} (on the command line, --set vision.heads=VALUE, '
        "--set text.q_heads=VALUE, --set text.kv_heads=VALUE and 1 more)",
    ),
    "a value that is none": (
        lambda f: dovetail.load(f, as_="qwen2_vl/hf", settings={"text.heads": 2}),
        "this model has no value `text.heads`; did you mean text.q_heads?\n\nhint: it has text.layers, text.vocab, text.d_model, "
        "text.head_dim, text.q_heads, text.kv_heads, text.d_ff, text.rope_theta, text.rope_scaling, "
        "text.norm_eps, text.activation, text.max_positions, text.use_sliding_window",
    ),
    "no dtype": (
        lambda f: dovetail.load(f, dtype="int8"),
        "a model cannot run in torch.int8\n\nhint: dtypes: bfloat16, float16, float32, float64",
    ),
    "no device": (
        lambda f: dovetail.load(f, device="tpu9"),
        "device `tpu9` cannot be used: Invalid device string: 'tpu9'\n\nhint: leave it out to run on the cpu",
    ),
    "no part": (
        lambda f: dovetail.load_part(f, "visual"),
        "qwen2_vl has no part `visual`\n\nhint: it has vision, merger, text",
    ),
    "no layers": (
        lambda f: dovetail.load_part(f, "text", layers=range(2, 5)),
        "layers 2 to 4 are no stage of 3 layers\n\nhint: give a range within the layers",
    ),
    "layers of a tower": (
        lambda f: dovetail.load_part(f, "vision", layers=range(1)),
        "vision is no decoder: it cannot be cut into layers\n\nhint: layers can be chosen of a decoder only",
    ),
}


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused(case: str, whole: Path) -> None:
    load, message = REFUSED[case]
    found = refusal(lambda: load(whole), whole)
    assert found == message


def test_a_truncated_file_is_refused(whole: Path) -> None:
    data = (whole / WEIGHTS).read_bytes()
    (whole / WEIGHTS).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="the file ends inside tensor"):
        dovetail.load(whole)


def test_a_family_without_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family("qwen2"), "model", "")
    folder = made(tmp_path / "m", "qwen2")
    with pytest.raises(UsageError, match="dovetail has no model of qwen2"):
        dovetail.load(folder)


def test_what_the_weights_do_not_say_can_be_given(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "qwen2")
    expected = output(dovetail.load(folder))
    config = json.loads((folder / "config.json").read_text())
    without(folder, "config.json")
    settings = {"text.head_dim": config["head_dim"]} if "head_dim" in config else scoped("text", DECODER)
    assert torch.equal(output(dovetail.load(folder, as_="qwen2", settings=settings)), expected)


def test_a_model_comes_from_a_hub_as_from_a_disk(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server(tmp_path, monkeypatch) as hub:
        shutil.copytree(whole, hub.root / "qwen")
        hub.add("owner/qwen", "qwen")
        far = dovetail.load("hf://owner/qwen")
        norm = dovetail.load_part("hf://owner/qwen", "merger").norm
    near = dovetail.load(whole).state_dict()
    assert far.state_dict().keys() == near.keys()
    assert all(torch.equal(one, near[name]) for name, one in far.state_dict().items())
    assert torch.equal(norm.weight, near["merger.norm.weight"])


@pytest.mark.parametrize("kind", ["transposed", "shared"])
def test_torch_files_of_any_memory_layout(kind: str, whole: Path, tmp_path: Path) -> None:
    tensors = load_file(whole / WEIGHTS)
    if kind == "transposed":
        tensors = {name: one.mT.contiguous().mT if one.ndim == 2 else one for name, one in tensors.items()}
    else:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    folder = tmp_path / "torch"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(tensors, folder / "pytorch_model.bin")
    expected = dovetail.load(whole).state_dict()
    found = dovetail.load(folder).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in found.items())


def test_garbage_is_collected_again_after_a_load(whole: Path) -> None:
    gc.enable()  # the command line, called in this process, goes without
    dovetail.load(whole)
    assert gc.isenabled()
    with pytest.raises(DovetailError):
        dovetail.load(without(whole, "config.json"))
    assert gc.isenabled()
