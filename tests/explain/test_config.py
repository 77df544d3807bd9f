"""Sizes with their sources: weights first, then stamp, config, published size, labelled convention."""

import json
from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.families.panovlm import expand, means_d_inner
from dovetail.report import Report
from files import MODELS, header_of, plan_of, write_listing


def report_on(tmp_path: Path, header: dict[str, Any], **side: Any) -> Report:
    path = write_listing(tmp_path / "x.json", header)
    for name, content in side.items():
        file = {
            "config": "config.json",
            "stamp": "dovetail.json",
            "yaml": "model_config.yaml",
            "metadata": "checkpoint_metadata.json",
        }[name]
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return dovetail.inspect(path)


def qwen2(**changes: int | str) -> dict[str, Any]:
    return header_of(plan_of("qwen2", {**MODELS["qwen2"][0], **changes}), "hf")


def values(report: Report, *names: str) -> list[tuple[Any, str, str]]:
    return [(v.value, v.source, v.evidence) for v in (report.config[name] for name in names)]


def errors(report: Report) -> list[str]:
    return [finding.message for finding in report.findings if finding.severity == "error"]


def test_what_shapes_leave_open_is_listed_with_what_they_say(tmp_path: Path) -> None:
    header = qwen2(**{"text.head_dim": 11})  # no published size, and 128 does not divide
    report = report_on(tmp_path, header)
    assert values(report, "text.q_heads", "text.kv_heads", "text.layers") == [
        (None, "undetermined", "the weights only say text.head_dim text.q_heads = 44"),
        (None, "undetermined", "the weights only say text.head_dim text.kv_heads = 22"),
        (3, "weights", "`model.layers.0.input_layernorm.weight`"),
    ]


def test_a_config_settles_what_is_open_and_what_follows_from_it(tmp_path: Path) -> None:
    report = report_on(tmp_path, qwen2(), config={"model_type": "qwen2", "num_attention_heads": 4})
    assert values(report, "text.q_heads", "text.head_dim", "text.kv_heads") == [
        (4, "config", "config.json: num_attention_heads"),
        (7, "config", "`model.layers.0.self_attn.q_proj.weight` with text.q_heads = 4"),
        (2, "config", "`model.layers.0.self_attn.k_proj.weight` with text.q_heads = 4"),
    ]


def test_the_stamp_goes_before_the_config_and_both_are_named_when_they_differ(tmp_path: Path) -> None:
    stamp = {"dovetail": 1, "config": {"text.q_heads": 2}}
    report = report_on(tmp_path, qwen2(), stamp=stamp, config={"num_attention_heads": 4})
    assert values(report, "text.q_heads") == [(2, "stamp", "dovetail.json: config.text.q_heads")]
    assert errors(report) == [
        "text.q_heads is 2 in dovetail.json: config.text.q_heads and 4 in config.json: num_attention_heads"
    ]


def test_a_config_that_contradicts_the_weights_is_an_error_naming_both(tmp_path: Path) -> None:
    report = report_on(tmp_path, qwen2(), config={"hidden_size": 64, "num_hidden_layers": 3})
    assert values(report, "text.d_model")[0][:2] == (61, "weights")
    assert errors(report) == [
        "text.d_model is 61 in the weights (`model.embed_tokens.weight`) and 64 in config.json: hidden_size"
    ]


def test_a_stamp_that_contradicts_the_weights_is_an_error_naming_both(tmp_path: Path) -> None:
    report = report_on(tmp_path, qwen2(), stamp={"config": {"text.layers": {"value": 4, "source": "stamp"}}})
    assert errors(report) == [
        "text.layers is 3 in the weights (`model.layers.0.input_layernorm.weight`) and 4 in dovetail.json: config.text.layers"
    ]


def test_a_config_whose_heads_do_not_divide_is_an_error(tmp_path: Path) -> None:
    report = report_on(tmp_path, qwen2(), config={"num_attention_heads": 5})
    assert errors(report) == [
        "text.q_heads cannot be 5 as config.json: num_attention_heads says; the weights say text.head_dim text.q_heads = 28"
    ]


def test_a_published_size_settles_heads_before_a_convention(tmp_path: Path) -> None:
    small = {
        "text.d_model": 896,
        "text.q_heads": 14,
        "text.kv_heads": 2,
        "text.head_dim": 64,
        "text.d_ff": 4864,
    }
    report = report_on(tmp_path, qwen2(**small))
    assert values(report, "text.head_dim") == [(64, "default", "as in qwen2-0.5b")]
    odd = {**small, "text.d_ff": 4866}
    assert values(report_on(tmp_path, qwen2(**odd)), "text.head_dim", "text.q_heads") == [
        (128, "default", "qwen2 convention"),
        (7, "default", "`model.layers.0.self_attn.q_proj.weight` with text.head_dim = 128"),
    ]


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"text_config": {"num_attention_heads": 4}}, "config.json: text_config.num_attention_heads"),
        ({"num_attention_heads": 4}, "config.json: num_attention_heads"),
        ({"n_head": 4}, "config.json: n_head"),
    ],
)
def test_every_spelling_is_read(config: dict[str, Any], place: str, tmp_path: Path) -> None:
    assert values(report_on(tmp_path, qwen2(), config=config), "text.q_heads") == [(4, "config", place)]


def test_a_litgpt_config_is_read(tmp_path: Path) -> None:
    header = header_of(plan_of("qwen2", MODELS["qwen2"][1]), "litgpt")
    report = report_on(
        tmp_path,
        header,
        yaml="n_head: 4\nn_query_groups: 2\nhead_size: 7\npadded_vocab_size: 211\nvocab_size: 200\n",
    )
    assert values(report, "text.q_heads", "text.kv_heads") == [
        (4, "config", "`transformer.h.0.attn.proj.weight` with text.head_dim = 7"),
        (2, "config", "`transformer.h.0.attn.qkv.weight` with text.head_dim = 7"),
    ]
    assert [(f.code, f.message) for f in report.findings] == [
        ("padded-vocab", "11 of 211 token rows are padding: model_config.yaml: vocab_size says 200")
    ]


def test_openpi_names_its_sizes_by_variant(tmp_path: Path) -> None:
    sizes = {"vlm.d_model": 2048, "vlm.d_ff": 16384, "vlm.q_heads": 8, "vlm.kv_heads": 1, "vlm.head_dim": 256}
    header = header_of(plan_of("pi0", {**MODELS["pi0"][0], **sizes}), "openpi")
    report = report_on(tmp_path, header, config={"paligemma_variant": "gemma_2b", "action_horizon": 16})
    assert values(report, "vlm.head_dim", "heads.action_horizon") == [
        (256, "config", "config.json: paligemma_variant = gemma_2b"),
        (16, "config", "config.json: action_horizon"),
    ]
    assert [m for m in errors(report) if "gemma_2b" in m] == [
        "vlm.layers is 3 in the weights (`paligemma_with_expert.paligemma.model.language_model.layers.0.input_layernorm.weight`) "
        "and 18 in config.json: paligemma_variant = gemma_2b",
        "vlm.vocab is 211 in the weights (`paligemma_with_expert.paligemma.lm_head.weight`) and 257152 in config.json: "
        "paligemma_variant = gemma_2b",
    ]


def test_the_variant_of_the_same_tensors_is_in_the_config_only(tmp_path: Path) -> None:
    header = header_of(plan_of("llava_onevision", MODELS["llava_onevision"][0]), "lmms")
    assert report_on(tmp_path, header).variant is None
    for model_type, variant in (
        ("llava_qwen", "base"),
        ("llava_qwen_with_alternating_attn", "alternating"),
        ("llava_qwen_with_alternating_cross_attn", "alternating_cross"),
    ):
        report = report_on(tmp_path, header, config={"model_type": model_type})
        assert (report.variant, report.config["variant"].evidence) == (variant, f"model_type = {model_type}")


def test_a_decoder_that_a_config_calls_something_else_is_not_claimed(tmp_path: Path) -> None:
    """Many models have the tensors of Qwen2 and compute something else."""
    report = report_on(tmp_path, qwen2(), config={"model_type": "seed_oss"})
    assert (report.family, report.is_whole) == (None, False)
    assert [(f.severity, f.code, f.message) for f in report.findings] == [
        (
            "error",
            "unknown-family",
            "config.json says `seed_oss`, which dovetail does not know; every tensor has its place in qwen2, "
            "but names and shapes do not show whether it computes the same",
        )
    ]
    assert report.findings[0].hint == "if it does, `--as qwen2` reads it as that"


def test_a_config_that_cannot_be_read_is_a_finding_and_the_rest_goes_on(tmp_path: Path) -> None:
    report = report_on(tmp_path, qwen2(), config='{"hidden_size": 61} trailing')
    assert report.family == "qwen2"
    assert [f.message for f in report.findings] == [
        "config.json cannot be read: Extra data: line 1 column 21 (char 20)"
    ]
    report = report_on(tmp_path, qwen2(), config="[1]")
    assert [f.message for f in report.findings] == [
        "config.json cannot be read: it holds a list, not an object"
    ]


@pytest.mark.parametrize(
    ("flag", "stored", "code", "severity"),
    [
        (False, False, "tie-flag", "error"),
        (True, True, "tie-flag", "note"),
        (True, False, None, None),
        (False, True, None, None),
    ],
)
def test_ties_are_decided_by_the_file_and_a_flag_that_contradicts_is_a_finding(
    flag: bool, stored: bool, code: str | None, severity: str | None, tmp_path: Path
) -> None:
    header = header_of(plan_of("qwen2", MODELS["qwen2"][int(stored)]), "hf")
    report = report_on(tmp_path, header, config={"model_type": "qwen2", "tie_word_embeddings": flag})
    assert [(f.code, f.severity) for f in report.findings] == ([(code, severity)] if code else [])
    (tie,) = report.ties
    assert (tie.role, tie.leaf, tie.is_stored, tie.flag) == ("head", "text.embed.weight", stored, flag)
    tied = report.parts["head"].tied_to if "head" in report.parts else "nothing"
    assert tied == (None if stored else "text.embed.weight" if flag is not False else "nothing")


def bimamba(**sizes: int) -> dict[str, Any]:
    model = {**MODELS["panovlm"][0], **{f"resampler.{name}": size for name, size in sizes.items()}}
    return header_of(plan_of("panovlm", model), "resampler")


def test_the_numbers_of_system_4_come_out_of_the_weights(tmp_path: Path) -> None:
    header = bimamba(hidden_dim=1024, d_inner=1792, d_state=64, d_conv=4, dt_rank=64, depth=4, out_dim=768)
    report = report_on(tmp_path, header)
    assert {name.removeprefix("resampler."): value.value for name, value in report.config.items()} == {
        "depth": 4,
        "hidden_dim": 1024,
        "in_dim": 66,
        "d_inner": 1792,
        "d_state": 64,
        "d_conv": 4,
        "dt_rank": 64,
        "out_dim": 768,
        "expand": 1.75,
        "norm_first": None,
        "dropout": None,
        "norm_eps": 1e-5,
    }
    assert values(report, "resampler.norm_first") == [(None, "undetermined", "weights cannot show it")]


def test_an_expand_that_does_not_give_d_inner_is_an_error(tmp_path: Path) -> None:
    header = bimamba(hidden_dim=1024, d_inner=1792, dt_rank=64)
    metadata = {"model_config": {"resampler_config": {"expand": 2.0, "norm_first": True, "d_state": 11}}}
    report = report_on(tmp_path, header, metadata=metadata)
    assert errors(report) == [
        "resampler.expand is 1.75 by the weights and 2.0 in checkpoint_metadata.json: model_config.resampler_config.expand"
    ]
    assert values(report, "resampler.norm_first") == [
        (True, "config", "checkpoint_metadata.json: model_config.resampler_config.norm_first")
    ]


def test_a_dt_rank_off_convention_is_a_warning(tmp_path: Path) -> None:
    report = report_on(tmp_path, bimamba(hidden_dim=47, dt_rank=5))
    assert [(f.severity, f.message) for f in report.findings] == [
        ("warning", "resampler.dt_rank is 5, by convention ceil(hidden_dim / 16) = 3")
    ]


@pytest.mark.parametrize(("hidden", "inner", "exact"), [(1024, 1792, 1.75), (768, 1536, 2.0)])
def test_expand_is_the_plain_ratio_where_it_rounds_back(hidden: int, inner: int, exact: float) -> None:
    assert expand({"d_inner": inner, "hidden_dim": hidden})[0] == exact


def test_expand_gives_every_d_inner_back() -> None:
    """SYSTEMS 4.4: for 896 wide, the plain ratio loses 54 of the d_inner between 896 and 2688."""
    lost = [inner for inner in range(896, 2689) if int(inner / 896 * 896) != inner]
    assert len(lost) == 54
    assert 1854 in lost
    for hidden in (896, 1000, 1152):
        for inner in range(hidden, 3 * hidden + 1):
            sizes = {"d_inner": inner, "hidden_dim": hidden}
            assert means_d_inner(expand(sizes)[0], sizes)


def test_a_layer_of_another_width_is_named(tmp_path: Path) -> None:
    header = qwen2()
    header["model.layers.1.mlp.up_proj.weight"][1] = [84, 61]
    assert errors(report_on(tmp_path, header)) == [
        "`model.layers.1.mlp.up_proj.weight` is [84, 61], 2 others like it [83, 61]"
    ]


def test_emptied_tensors_are_called_what_they_are(tmp_path: Path) -> None:
    header = {
        name: [dtype, [0]] if "mlp" in name else [dtype, shape] for name, (dtype, shape) in qwen2().items()
    }
    report = report_on(tmp_path, header)
    assert [(f.code, len(f.tensors)) for f in report.findings if f.severity == "error"] == [
        ("empty-tensor", 3)
    ] * 3
    assert errors(report)[0] == (
        "`model.layers.0.mlp.gate_proj.weight` and 2 more is empty: shape [0], declared `d_ff d_model`"
    )


def test_one_cause_is_one_finding(tmp_path: Path) -> None:
    header = {
        name: [dtype, [67 if size == 61 else size for size in shape]]
        if "layers" in name and "mlp" in name
        else [dtype, shape]
        for name, (dtype, shape) in qwen2().items()
    }
    (message,) = errors(report_on(tmp_path, header))
    assert message == (
        "`model.layers.0.mlp.gate_proj.weight` and 8 more: axis 1 (d_model) is 67, expected 61 "
        "(from `model.embed_tokens.weight` and 7 more)"
    )


def test_mixed_dtypes_within_a_stack_are_a_warning(tmp_path: Path) -> None:
    header = qwen2()
    header["model.layers.2.mlp.up_proj.weight"][0] = "F32"
    assert [(f.code, f.severity, f.message) for f in report_on(tmp_path, header).findings] == [
        ("dtype-mix", "warning", "`model.layers.2.mlp.up_proj.weight` is F32, the others like it are 2 BF16")
    ]


def test_heads_that_a_published_model_of_these_sizes_does_not_have_are_a_warning(tmp_path: Path) -> None:
    """No weight shows them: 8 heads of a tower that has 16 fit all tensors, and give other features."""
    dovetail.make("siglip", tmp_path / "it", sparse=True, set={"vision.layers": 2})
    config = tmp_path / "it" / "config.json"
    said = json.loads(config.read_text())
    assert dovetail.inspect(tmp_path / "it").findings == ()
    config.write_text(json.dumps({**said, "num_attention_heads": 8}))
    (found,) = dovetail.inspect(tmp_path / "it").findings
    assert (found.code, found.severity) == ("other-heads", "warning")
    assert found.message.startswith(
        "vision.heads is 8 in config.json: num_attention_heads, and 16 in so400m-patch14-"
    )
    config.write_text(json.dumps({**said, "num_attention_heads": 5}))
    assert errors(dovetail.inspect(tmp_path / "it")) == [
        "vision.heads cannot be 5 as config.json: num_attention_heads says; the weights say vision.d_vision = 1152"
    ]


def test_of_two_flags_of_ties_one_that_is_true_is_enough_for_a_head_that_is_not_there(tmp_path: Path) -> None:
    """As transformers 4.45 wrote LLaVA-OneVision 0.5B: false by default around a decoder whose own is true."""
    model = {name: value for name, value in MODELS["llava_onevision"][0].items() if name != "head"}
    header = header_of(plan_of("llava_onevision", model), "hf")
    said = {"model_type": "llava_onevision", "tie_word_embeddings": False}
    report = report_on(tmp_path, header, config={**said, "text_config": {"tie_word_embeddings": True}})
    assert (report.is_whole, report.ties[0].flag) == (True, True)
    assert [(one.code, one.severity, one.message) for one in report.findings if one.code == "tie-flag"] == [
        (
            "tie-flag",
            "warning",
            "head is not in the file, and tied as config.json: text_config.tie_word_embeddings = true says; "
            "config.json: tie_word_embeddings is false",
        )
    ]
    report = report_on(tmp_path, header, config={**said, "text_config": {"tie_word_embeddings": False}})
    assert errors(report) == ["head is not in the file, and the config says tie_word_embeddings = false"]
