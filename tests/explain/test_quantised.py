"""Quantised weights: first what model it is and how it was packed, then nothing that follows from the packing."""

from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.errors import CheckpointError
from dovetail.explain.adapters import without_adapter
from dovetail.explain.documents import Documents
from dovetail.explain.name_groups import take_inventory
from dovetail.explain.quantised import unpacked
from dovetail.families import all_families
from dovetail.render.html import write_report
from files import MODELS, header_of, plan_of, write_listing

Header = dict[str, list[Any]]
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}


def nibbles(name: str, shape: list[int], kind: str) -> Header:
    """bitsandbytes 0.50, Linear4bit."""
    size = shape[0] * shape[1]
    return {
        name: ["U8", [size // 2, 1]],
        f"{name}.absmax": ["U8", [-(-size // 64)]],
        f"{name}.nested_absmax": ["F32", [1]],
        f"{name}.nested_quant_map": ["F32", [256]],
        f"{name}.quant_map": ["F32", [16]],
        f"{name}.quant_state.bitsandbytes__{kind}": ["U8", [128]],
    }


def beside(module: str, **leaves: list[Any]) -> Header:
    return {f"{module}.{leaf}": value for leaf, value in leaves.items()}


def int8(name: str, shape: list[int]) -> Header:
    """bitsandbytes 0.50, Linear8bitLt."""
    module = name.removesuffix(".weight")
    return beside(module, weight=["I8", shape], SCB=["F32", [shape[0]]], weight_format=["U8", []])


def gptq(name: str, shape: list[int], bits: int) -> Header:
    """AutoGPTQ and GPTQModel, 32 rows to a group."""
    rows, columns = shape
    groups, zeros = -(-columns // 32), rows * bits // 32
    return beside(
        name.removesuffix(".weight"),
        qweight=["I32", [columns * bits // 32, rows]],
        qzeros=["I32", [groups, zeros]],
        scales=["F16", [groups, rows]],
        g_idx=["I32", [columns]],
    )


def awq(name: str, shape: list[int]) -> Header:
    """AutoAWQ 0.2.9, WQLinear_GEMM, 32 rows to a group."""
    rows, columns = shape
    groups = -(-columns // 32)
    return beside(
        name.removesuffix(".weight"),
        qweight=["I32", [columns, rows // 8]],
        qzeros=["I32", [groups, rows // 8]],
        scales=["F16", [groups, rows]],
    )


def packed(name: str, shape: list[int]) -> Header:
    """compressed-tensors 0.20, pack-quantized."""
    rows, columns = shape
    return beside(
        name.removesuffix(".weight"),
        weight_packed=["I32", [rows, columns // 8]],
        weight_scale=["BF16", [rows, columns // 32]],
        weight_shape=["I64", [2]],
        weight_zero_point=["I32", [rows // 8, columns // 32]],
    )


def nvfp4(name: str, shape: list[int]) -> Header:
    """compressed-tensors 0.20, nvfp4-pack-quantized."""
    rows, columns = shape
    return beside(
        name.removesuffix(".weight"),
        weight_packed=["U8", [rows, columns // 2]],
        weight_scale=["F8_E4M3", [rows, columns // 16]],
        weight_global_scale=["F32", [1]],
    )


def floats(name: str, shape: list[int], scale: str) -> Header:
    return {name: ["F8_E4M3", shape], f"{name}_{scale}": ["F32", [1, 1]]}


def mlx(name: str, shape: list[int]) -> Header:
    """mlx.nn.QuantizedLinear, 4 bits, 64 columns to a group."""
    rows, columns = shape
    groups = ["BF16", [rows, columns // 64]]
    return beside(
        name.removesuffix(".weight"), weight=["U32", [rows, columns // 8]], scales=groups, biases=groups
    )


def quanto(name: str, shape: list[int]) -> Header:
    """optimum-quanto 0.2.7, qint8."""
    module = name.removesuffix(".weight")
    return {
        f"{name}._data": ["I8", shape],
        f"{name}._scale": ["F32", [shape[0], 1]],
        **beside(module, input_scale=["F32", []], output_scale=["F32", []]),
    }


GROUP = {"weights": {"num_bits": 4}}
CT = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": GROUP}}}
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
# how each weight is written, what the config says, and how the model is called then
WAYS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nf4": (lambda n, s: nibbles(n, s, "nf4"), {}, "quantised by bitsandbytes to 4 bits (NF4)"),
    "fp4": (lambda n, s: nibbles(n, s, "fp4"), {}, "quantised by bitsandbytes to 4 bits (FP4)"),
    "int8": (int8, {}, "quantised by bitsandbytes to 8 bits"),
    "gptq": (lambda n, s: gptq(n, s, 4), {}, "quantised by GPTQ to 4 bits"),
    "gptq-8": (lambda n, s: gptq(n, s, 8), GPTQ, "quantised by GPTQ to 8 bits"),  # the shapes know better
    "awq": (awq, {}, "quantised by AWQ to 4 bits"),
    "packed": (packed, CT, "quantised by compressed-tensors to 4 bits"),
    "packed-unsaid": (packed, {}, "quantised by compressed-tensors"),
    "nvfp4": (nvfp4, CT, "quantised by compressed-tensors to 4 bits (NVFP4)"),
    "fp8": (lambda n, s: floats(n, s, "scale"), CT, "quantised by compressed-tensors to 8 bits"),
    "fp8-unsaid": (lambda n, s: floats(n, s, "scale"), {}, "quantised to 8 bits"),
    "fp8-blocks": (
        lambda n, s: floats(n, s, "scale_inv"),
        FP8,
        "quantised to 8 bits (FP8, a scale for each block)",
    ),
    "mlx": (mlx, {"quantization": {"group_size": 64, "bits": 4}}, "quantised by MLX to 4 bits"),
    "quanto": (quanto, {}, "quantised by quanto"),
}
# whose headers do not tell the shape of a weight
UNSEEN = ("nf4", "fp4", "packed-unsaid", "quanto")


def model() -> Header:
    """A Qwen2 whose sizes can be packed: multiples of 64."""
    sizes = {
        "text.layers": 3,
        "text.d_model": 128,
        "text.q_heads": 4,
        "text.kv_heads": 2,
        "text.head_dim": 32,
        "text.d_ff": 192,
        "text.vocab": 320,
        "head": "head",
    }
    return header_of(plan_of("qwen2", sizes), "hf")


def quantised(tensors: Header, way: Any, layers: range = range(3)) -> Header:
    """With the linear layers of some layers packed."""
    found: Header = {}
    for name, (dtype, shape) in tensors.items():
        is_linear = name.endswith("proj.weight") and int(name.split(".")[2]) in layers
        found |= way(name, shape) if is_linear else {name: [dtype, shape]}
    return found


def look(folder: Path, tensors: Header, config: dict[str, Any]) -> dovetail.Report:
    folder.mkdir(exist_ok=True)
    write_listing(folder / "config.json", {"model_type": "qwen2", "num_attention_heads": 4, **config})
    return dovetail.inspect(write_listing(folder / "x.json", tensors))


@pytest.mark.parametrize("way", WAYS)
def test_what_it_is_comes_first_and_nothing_follows_from_the_packing(way: str, tmp_path: Path) -> None:
    write, config, text = WAYS[way]
    plain = look(tmp_path / "plain", model(), {})
    assert plain.is_whole
    report = look(tmp_path, quantised(model(), write), config)
    assert (report.family, report.layout, report.is_whole) == ("qwen2", "hf", False)
    assert [finding.code for finding in report.findings if finding.severity != "note"] == ["quantised"]
    assert report.findings[0].message.startswith(
        f"this is Qwen2 / Qwen2.5, {text}: 21 weights packed, first `"
    )
    assert report.quantisation is not None
    assert (report.quantisation.text, report.quantisation.weights) == (text, 21)
    assert report.called == f"Qwen2 / Qwen2.5, {text}"
    assert sum((report.accounting.used, *report.accounting.ignored.values())) == report.tensors
    if report.quantisation.bits:
        assert (report.parameters, report.parts["text"].parameters) == (
            plain.parameters,
            plain.parts["text"].parameters,
        )
    if way not in UNSEEN:
        sizes = [{name: one.value for name, one in each.config.items()} for each in (report, plain)]
        assert sizes[0] == sizes[1]


def test_a_report_is_headed_by_it(tmp_path: Path) -> None:
    report = look(tmp_path, quantised(model(), awq), {})
    write_report(report, str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>Qwen2 / Qwen2.5, quantised by AWQ to 4 bits</h1>" in page


def test_layers_that_were_left_as_they_are_belong_to_the_same_stack(tmp_path: Path) -> None:
    report = look(tmp_path, quantised(model(), awq, range(1, 3)), {})
    assert (report.family, [one.code for one in report.findings]) == ("qwen2", ["quantised"])
    assert report.findings[0].message.endswith(
        "14 weights packed, first `model.layers.1.self_attn.q_proj.qweight`"
    )


def test_a_packed_weight_without_its_scales_is_named(tmp_path: Path) -> None:
    tensors = quantised(model(), lambda name, shape: gptq(name, shape, 4))
    del tensors["model.layers.1.mlp.up_proj.scales"]
    report = look(tmp_path, tensors, {})
    assert [(one.code, one.tensors) for one in report.findings][1] == (
        "missing",
        ("model.layers.1.mlp.up_proj.qweight",),
    )


def test_scales_without_a_packed_weight_are_not_lost_from_sight(tmp_path: Path) -> None:
    tensors = quantised(model(), lambda name, shape: gptq(name, shape, 4))
    del tensors["model.layers.1.mlp.up_proj.qweight"]
    report = look(tmp_path, tensors, {})
    said = {name for one in report.findings if one.code == "unexpected" for name in one.tensors}
    assert "model.layers.1.mlp.up_proj.scales" in said
    assert any(one.code == "missing" and "up_proj" in one.message for one in report.findings)


def test_experts_in_fp8_and_mxfp4_are_recognised_in_a_family_that_is_not(tmp_path: Path) -> None:
    experts = {"model.layers.0.mlp.experts.down_proj": ["F8_E4M3", [4, 32, 64]]}
    experts["model.layers.0.mlp.experts.down_proj_scale_inv"] = ["F32", [4, 1, 1]]
    report = look(tmp_path, experts, {"model_type": "nobodys"})
    assert report.findings[0].message.startswith(
        "this is `nobodys`, quantised to 8 bits (FP8, a scale for each block): 1 weight packed, first `"
    )
    blocks = {"model.layers.0.mlp.experts.down_proj_blocks": ["U8", [4, 32, 2, 16]]}
    blocks["model.layers.0.mlp.experts.down_proj_scales"] = ["U8", [4, 32, 2]]
    report = look(tmp_path, blocks, {})
    assert (report.quantisation and report.quantisation.text, report.parameters) == (
        "quantised to 4 bits (MXFP4)",
        4 * 32 * 64,
    )


def test_packed_bytes_are_no_weights_whoever_lets_them_pass(tmp_path: Path) -> None:
    look(tmp_path, quantised(model(), int8), {})
    with pytest.raises(CheckpointError, match="quantised by bitsandbytes to 8 bits") as refusal:
        dovetail.plan_convert(tmp_path / "x.json", to="litgpt", allow=["*"])
    assert refusal.value.hint is not None
    assert refusal.value.hint.startswith("dovetail does not unpack it: ")
    assert "--allow" not in refusal.value.hint


def test_shapes_that_nobody_writes_are_no_bug(tmp_path: Path) -> None:
    for shape in ([], [0], [0, 0], [1], [7, 0], [2, 2, 2]):
        tensors = quantised(model(), awq)
        for leaf in ("qweight", "qzeros", "scales"):
            odd = {**tensors, f"model.layers.0.mlp.up_proj.{leaf}": ["I32", shape]}
            assert look(tmp_path, odd, {}).findings[0].code == "quantised"
    odd_bits = {"quantization": {"bits": 10**30}}
    assert look(tmp_path, quantised(model(), mlx), odd_bits).findings[0].code == "quantised"


def test_no_family_is_taken_for_quantised_or_for_an_adapter() -> None:
    for family in all_families():
        for sizes in MODELS.get(family.id, ()):
            plan = plan_of(family.id, sizes)
            for layout in family.layouts:
                if layout.is_writable:
                    inventory = take_inventory(header_of(plan, layout.id))
                    assert unpacked(inventory, Documents()) == (inventory, None)
                    assert without_adapter(inventory, Documents()) == (inventory, None)
