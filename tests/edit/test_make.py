"""Checkpoints of every family in every layout, with data and without: what is made is what was asked for."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import dovetail
from dovetail.errors import UsageError
from dovetail.explain.examine import examine
from dovetail.families import built_in, family
from dovetail.report import Report
from dovetail.weights.stored_leaves import stored_leaves
from files import MODELS, header_of, plan_of


def sizes_of(id: str, number: int) -> dict[str, int | str]:
    """A model of MODELS; the kinds that it does not name are those of the first published size, as in `make`."""
    published = next(iter(family(id).sizes.values()))
    return {**{name: kind for name, kind in published.items() if "." not in name}, **MODELS[id][number]}


def declared(id: str, number: int, layout: str) -> dict[str, list[Any]]:
    """The header that the declaration gives, empty if the layout has no place for the model."""
    return header_of(plan_of(id, sizes_of(id, number)), layout)


MADE = [
    pytest.param(one.id, number, layout.id, id=f"{one.id}-{number}-{layout.id}")
    for one in built_in()
    for number in range(len(MODELS[one.id]))
    for layout in one.layouts
    if declared(one.id, number, layout.id)
]


def made(path: Path, id: str, number: int, layout: str, **options: Any) -> None:
    """Makes a model of MODELS."""
    dovetail.make(id, path, layout=layout, set=MODELS[id][number], **options)


def headers(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape by stored name."""
    return {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder by the name that dovetail gives it, read by torch and safetensors."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                found |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        elif file.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            found |= flat(torch.load(file, weights_only=True))
    return found


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """Nested dicts as names with slashes."""
    found: dict[str, torch.Tensor] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}{key}/") if isinstance(inner, dict) else {prefix + key: inner}
    return found


def leaves(path: Path) -> dict[str, bytes]:
    """The bytes of every canonical leaf."""
    with dovetail.open_checkpoint(path) as store:
        examination = examine(store, built_in)
        assert examination.explanation is not None
        assert examination.inference is not None
        found = stored_leaves(examination.explanation, examination.inference, store)
        stored = {name: store.read(name) for name in store.entries}
    return {
        name: b"".join(
            stored[span.tensor][span.start : span.start + span.length] for span in leaf.spans or ()
        )
        for name, leaf in found.items()
    }


# What is said of a sound model: its values are fresh, copies are copies, and some layouts are bugs.
EXPECTED = {"fresh-init", "duplicate", "buggy-layout", "dead", "same-kinds", "tie-flag", "no-head"}
# Sizes that no shape shows, in families whose own tools write no config that says them.
UNSAID = {
    "panovlm": (
        "vision.heads",
        "text.q_heads",
        "text.kv_heads",
        "text.head_dim",
        "resampler.heads",
        "resampler.head_dim",
    ),
    "prismatic": ("vision.heads",),
    "dinov2": ("vision.heads",),
}


def without_prefix(names: dict[str, Any], id: str, layout: str) -> dict[str, Any]:
    """Names as the layout has them, without the wrapper of its container."""
    wrapper = family(id).layout(layout).container.wrapper
    assert all(name.startswith(wrapper) for name in names)
    return {name.removeprefix(wrapper): value for name, value in names.items()}


@pytest.mark.parametrize(("id", "number", "layout"), MADE)
def test_what_is_made_is_what_was_declared(id: str, number: int, layout: str, tmp_path: Path) -> None:
    """Other libraries read it, `validate` finds it whole and knows it, and sparse it is the same without data."""
    made(tmp_path / "full", id, number, layout)
    full = loaded(tmp_path / "full")
    check_header(headers(full), id, number, layout)
    check_report(dovetail.validate(tmp_path / "full", values=True), id, number, layout)
    made(tmp_path / "sparse", id, number, layout, sparse=True)
    sparse = loaded(tmp_path / "sparse")
    assert headers(sparse) == headers(full)
    assert not any(tensor.any() for tensor in sparse.values())
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "full").rglob("*") if path.is_file()}
    assert sizes == {
        path.name: path.stat().st_size for path in (tmp_path / "sparse").rglob("*") if path.is_file()
    }
    report = dovetail.inspect(tmp_path / "sparse")
    assert (report.family, report.layout, report.is_whole) == (id, layout, True)


def check_header(read: dict[str, tuple[str, tuple[int, ...]]], id: str, number: int, layout: str) -> None:
    """Names, shapes and dtypes are those that were declared, and second names are there where they should be."""
    found = without_prefix(read, id, layout)
    header = declared(id, number, layout)
    aliases = found.keys() - header.keys()
    assert {name: (dtype, list(shape)) for name, (dtype, shape) in found.items() if name not in aliases} == {
        name: ("bfloat16", shape) for name, (_, shape) in header.items()
    }
    assert bool(aliases) == any(
        mount.aliases for mounts in family(id).layout(layout).mounts.values() for mount in mounts
    )


def check_report(report: Report, id: str, number: int, layout: str) -> None:
    """It is whole, and its sizes are those that were asked for."""
    assert (report.family, report.layout) == (id, layout)
    assert report.is_whole
    assert [f.message for f in report.findings if f.code not in EXPECTED] == []
    plan = plan_of(id, sizes_of(id, number))
    roles = family(id).layout(layout).mounts
    known = {name: value.value for name, value in report.config.items()}
    for name, size in plan.sizes.items():
        if name.split(".")[0] in roles:
            assert known[name] == size or (known[name] is None and name in UNSAID[id]), name


@pytest.mark.parametrize("id", [one.id for one in built_in()])
def test_one_seed_is_one_model_in_every_layout(id: str, tmp_path: Path) -> None:
    for number in range(len(MODELS[id])):
        models: dict[str, dict[str, bytes]] = {}
        for param in MADE:
            if param.values[:2] == (id, number):
                layout = str(param.values[2])
                made(tmp_path / f"{number}-{layout}", id, number, layout, seed=7)
                models[layout] = leaves(tmp_path / f"{number}-{layout}")
        largest = max(models.values(), key=len)
        for layout, model in models.items():
            tied = {name for name in model if name.split(".")[0] in family(id).ties and name not in largest}
            assert {name: model[name] for name in model if name not in tied} == {
                name: largest[name] for name in model if name not in tied
            }, layout
            for role in {name.split(".")[0] for name in tied}:
                assert model[f"{role}.weight"] == model[family(id).ties[role]]


def test_the_seed_decides_all_and_nothing_else_does(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made(tmp_path / name, "siglip", 0, "hf", seed=seed)
    a, b, c = (leaves(tmp_path / name) for name in "abc")
    assert a == b
    same = {name for name in a if a[name] == c[name]}
    assert same == {name for name in a if is_constant(a[name])}
    assert len(same) < len(a)


def test_a_size_more_changes_no_other_leaf(tmp_path: Path) -> None:
    """Layer 0 of a deeper model of one seed is layer 0 of the shallower one."""
    for layers in (1, 3):
        sizes = {**MODELS["qwen3"][0], "text.layers": layers}
        dovetail.make("qwen3", tmp_path / str(layers), set=sizes)
    shallow, deep = leaves(tmp_path / "1"), leaves(tmp_path / "3")
    assert shallow == {name: deep[name] for name in shallow}
    assert len(deep) == len(shallow) + 2 * 11


def is_constant(data: bytes) -> bool:
    return len(set(np.frombuffer(data, np.uint16).tolist())) == 1


@pytest.mark.parametrize("id", [one.id for one in built_in()])
def test_values_are_those_that_training_begins_with(id: str, tmp_path: Path) -> None:
    made(tmp_path / "out", id, 0, family(id).layouts[0].id, dtype="float32", seed=3)
    tensors = loaded(tmp_path / "out")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    matrices = {name: one for name, one in tensors.items() if one.dim() == 2 and one.numel() > 2000}
    assert matrices
    for name, tensor in matrices.items():
        assert abs(tensor.mean()) < tensor.std() / 4, name
        assert 0.005 < tensor.std() < 0.5, name
    with dovetail.open_checkpoint(tmp_path / "out") as store:
        twice = len(store.aliases.keys() & matrices.keys())
    assert len({tensor.numpy().tobytes() for tensor in matrices.values()}) == len(matrices) - twice


@pytest.mark.parametrize(
    ("dtype", "bits"), [("bfloat16", 16), ("float16", 16), ("float32", 32), ("float64", 64), ("F16", 16)]
)
def test_the_dtype_is_the_one_asked_for(dtype: str, bits: int, tmp_path: Path) -> None:
    one = dovetail.make("qwen3", tmp_path / "out", set=MODELS["qwen3"][0], dtype=dtype)
    assert one.bytes == one.parameters * bits // 8
    (name,) = {str(tensor.dtype) for tensor in loaded(tmp_path / "out").values()}
    assert name == f"torch.{'float16' if dtype == 'F16' else dtype}"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == name.removeprefix(
        "torch."
    )


@pytest.mark.parametrize("limit", [1, 10_000, 100_000, 10**9])
def test_shards_hold_every_tensor_once_and_no_more_than_they_may(limit: int, tmp_path: Path) -> None:
    one = dovetail.make("qwen3", tmp_path / "out", set=MODELS["qwen3"][0], max_shard_size=limit)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    held: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            sizes = {name: tensors.get_tensor(name).nbytes for name in tensors.keys()}  # noqa: SIM118
        assert sum(sizes.values()) <= limit or len(sizes) == 1
        assert not held.keys() & sizes.keys()
        held |= dict.fromkeys(sizes, file.name)
    assert len(held) == one.tensors
    index = tmp_path / "out" / "model.safetensors.index.json"
    assert index.exists() == (len(files) > 1)
    if index.exists():
        assert json.loads(index.read_text()) == {"metadata": {"total_size": one.bytes}, "weight_map": held}
    assert dovetail.validate(tmp_path / "out").is_whole


@pytest.mark.parametrize(
    ("id", "size", "layout"),
    [
        ("qwen2_vl", "2b", "hf"),
        ("pi0", "base", "openpi"),
        ("prismatic", "siglip2-qwen3-1.7b", "native"),
        ("qwen2_vl", "2b", "litgpt-fork"),
    ],
)
def test_full_size_takes_no_room(id: str, size: str, layout: str, tmp_path: Path) -> None:
    one = dovetail.make(id, tmp_path / "out", size=size, layout=layout, sparse=True)
    taken = sum(path.stat().st_blocks * 512 for path in (tmp_path / "out").rglob("*"))
    assert one.bytes > 4 * 10**9
    assert taken < 3 << 20
    report = dovetail.inspect(tmp_path / "out")
    assert (report.family, report.layout, report.is_whole) == (id, layout, True)
    assert (report.tensors, report.bytes) == (one.tensors, one.bytes)


def test_the_result_says_what_was_written(tmp_path: Path) -> None:
    one = dovetail.make("qwen3", tmp_path / "out", set=MODELS["qwen3"][0], dtype="float32")
    header = header_of(plan_of("qwen3", MODELS["qwen3"][0]), "hf")
    parameters = sum(math.prod(shape) for _, shape in header.values())
    assert one == (
        str(tmp_path / "out"),
        ("model.safetensors", "config.json"),
        len(header),
        parameters,
        4 * parameters,
    )
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "qwen9"}, "no family is called `qwen9`"),
        ({"size": "9b"}, "qwen3 has no size `9b`"),
        ({"layout": "gguf"}, "family `qwen3` has no layout `gguf`"),
        ({"dtype": "int99"}, "unknown dtype `int99`"),
        ({"dtype": "F4"}, "cannot make values of dtype F4: they share bytes"),
        ({"dtype": "int64"}, "cannot make values of dtype I64"),
        ({"dtype": "float8_e4m3fn"}, "cannot make values of dtype F8_E4M3"),
        (
            {"set": {"text.layer": 3}},
            "qwen3 has no size or setting `text.layer`; did you mean text.layers?",
        ),
        ({"set": {"ears": 3}}, "qwen3 has no size or setting `ears`"),
        (
            {"set": {"rope_teta": 3}},
            "qwen3 has no size or setting `rope_teta`; did you mean rope_theta?",
        ),
        ({"set": {"rope_theta": "high"}}, "text.rope_theta cannot be 'high'"),
        ({"set": {"use_sliding_window": 1}}, "text.use_sliding_window cannot be 1"),
        ({"set": {"dtype": "int99"}}, "unknown dtype `int99`"),
        ({"family": "panovlm", "set": {"norm_eps": 1e-6}}, "several parts have a norm_eps"),
        (
            {"family": "panovlm", "set": {"resampler.pool_size": 2}},
            "the resampler, a bimamba here, has no setting `pool_size`",
        ),
        (
            {"family": "prismatic", "set": {"vision.antialias": False}},
            "vision.antialias stands in no config",
        ),
        ({"set": {"text.layers": 0}}, "text.layers cannot be `0`"),
        ({"set": {"text.layers": "many"}}, "text.layers cannot be `many`"),
        (
            {"set": {"text.head_dim": 7, "head.d_model": 61, "text.d_model": 59}},
            "text.d_model cannot be 59 and 61",
        ),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        dovetail.make(**{"family": "qwen3", "out": tmp_path / "out", **options})
    assert error.value.message == message
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


def other(value: Any) -> Any:
    """A value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case list():
            return [*value, 7]
        case None:
            return 3
        case _:
            return {"rope_type": "linear", "factor": 2.5}


SETTINGS = [
    pytest.param(one.id, number, layout.id, id=f"{one.id}-{number}-{layout.id}")
    for one in built_in()
    for number in range(min(len(MODELS[one.id]), 2))
    for layout in one.layouts
    if len(layout.mounts) > 1 and declared(one.id, number, layout.id)
]


@pytest.mark.parametrize(("id", "number", "layout"), SETTINGS)
def test_settings_land_in_the_config_and_in_what_inspect_says(
    id: str, number: int, layout: str, tmp_path: Path
) -> None:
    plan = plan_of(id, sizes_of(id, number))
    named = {setting.name: setting for setting in plan.family.settings}
    for role, part in plan.kinds.items():
        named |= {f"{role}.{setting.name}": setting for setting in part.facts.settings}
    for whole in (True, False):  # a map, and what may stand in it
        given = {
            name: other(setting.default)
            for name, setting in named.items()
            if setting.spellings and isinstance(setting.default, dict) <= whole
        }
        out = tmp_path / str(whole)
        dovetail.make(id, out, layout=layout, set={**MODELS[id][number], **given}, sparse=True)
        report = dovetail.validate(out, as_=f"{id}/{layout}")
        alike = {"", *(role for role, part in plan.kinds.items() if report.parts[role].kind == part.id)}
        for name, value in given.items():
            # another `arch_specifier` makes another kind of Prismatic's projector
            if (not whole or not isinstance(value, dict)) and name.rpartition(".")[0] in alike:
                assert report.config[name].value == value, name
                assert report.config[name].source == "config"


def test_a_setting_runs(tmp_path: Path) -> None:
    given = {"rope_theta": 5e5, "text.layers": 1, "vision.layers": 1, "image_token": 7, "dtype": "float16"}
    made = dovetail.make("qwen2_vl", tmp_path / "vlm", set={**MODELS["qwen2_vl"][0], **given})
    config = json.loads((tmp_path / "vlm" / "config.json").read_text())
    assert (config["rope_theta"], config["image_token_id"], config["torch_dtype"]) == (5e5, 7, "float16")
    assert made.bytes == 2 * made.parameters
    model = dovetail.load(tmp_path / "vlm")
    assert (model.text.config.rope_theta, model.config.image_token) == (5e5, 7)
    assert model.text.embed.weight.dtype == torch.float16
    dovetail.make("pi0", tmp_path / "policy", set={"action_horizon": 9, "heads.d_action": 6}, sparse=True)
    assert dovetail.load(tmp_path / "policy").action_shape == (9, 6)


def test_the_declaration_stays_as_it_is(tmp_path: Path) -> None:
    for out, section in (("a", [1, 2, 3]), ("b", None)):
        given = {} if section is None else {"mrope_section": section}
        dovetail.make("qwen2_vl", tmp_path / out, set=given, sparse=True)
    scaling = json.loads((tmp_path / "b" / "config.json").read_text())["rope_scaling"]
    assert scaling["mrope_section"] == [16, 24, 24]
