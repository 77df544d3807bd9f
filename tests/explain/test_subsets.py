"""Files that hold less or other than a model: adapters, one part, all parts but one, checkpoints in training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dovetail
from dovetail.errors import CheckpointError
from dovetail.report import Adapter
from files import MODELS, header_of, plan_of, write_listing

Header = dict[str, list[Any]]


def header(family: str, layout: str, number: int = 0) -> Header:
    return header_of(plan_of(family, MODELS[family][number]), layout)


def look(tmp_path: Path, tensors: Header) -> dovetail.Report:
    return dovetail.inspect(write_listing(tmp_path / "x.json", tensors))


def said(report: dovetail.Report) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity, f.message) for f in report.findings]


# -- adapters: names as peft 0.17 writes them, `save_pretrained` and `state_dict()`


def targets(tensors: Header) -> list[str]:
    return [name for name in tensors if ".self_attn." in name and name.endswith("proj.weight")]


def adapter(tensors: Header, infix: str = "") -> Header:
    """`base_model.model.<module>.lora_A.weight`; in memory the adapter's name follows: `lora_A.default.weight`."""
    found: Header = {}
    for name in targets(tensors):
        module = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = tensors[name][1]
        found[f"{module}.lora_A.{infix}weight"] = ["F32", [8, columns]]
        found[f"{module}.lora_B.{infix}weight"] = ["F32", [rows, 8]]
    return found


def in_memory(tensors: Header) -> Header:
    """What `PeftModel.state_dict()` gives: wrapped linears are called `base_layer`."""
    found = adapter(tensors, "default.")
    wrapped = {name.rpartition(".")[0] for name in targets(tensors)}
    for name, value in tensors.items():
        module, _, leaf = name.rpartition(".")
        found[f"base_model.model.{module}{'.base_layer' * (module in wrapped)}.{leaf}"] = value
    return found


@pytest.mark.parametrize("kind", ["plain", "dora", "embedding"])
def test_an_adapter_is_not_taken_for_a_model(kind: str, tmp_path: Path) -> None:
    tensors = adapter(header("qwen2_vl", "hf"))
    if kind == "dora":
        tensors |= {
            f"{name.removesuffix('.weight')[:-7]}.lora_magnitude_vector": ["F32", [5]]
            for name in list(tensors)
        }
    elif kind == "embedding":
        tensors |= {
            f"base_model.model.model.embed_tokens.lora_embedding_{one}": ["F32", [8, 5]] for one in "AB"
        }
    report = look(tmp_path, tensors)
    assert (report.family, report.is_whole) == (None, False)
    assert said(report) == [
        (
            "adapter",
            "error",
            f"this is a LoRA adapter of rank 8, not a model: {len(tensors)} tensors to be added to the "
            f"weights of one, first `{next(iter(tensors))}`",
        )
    ]
    assert report.findings[0].hint == (
        "merge it into its base, which adapter_config.json names (peft: merge_and_unload()), and give the "
        "result"
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3"])
def test_a_model_with_its_adapter_is_the_model_and_the_adapter_is_named(family: str, tmp_path: Path) -> None:
    tensors = header(family, "hf")
    report = look(tmp_path, in_memory(tensors))
    assert (report.family, report.layout, report.is_whole) == (family, "hf", True)
    assert report.wrappers == ("base_model.model.", "base_layer.")
    count = len(adapter(tensors))
    assert said(report) == [
        (
            "adapter",
            "warning",
            f"{count} LoRA tensors not merged into the weights, first "
            "`base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight`",
        )
    ]
    assert report.accounting.ignored == {"adapter, not merged into the weights": count}
    assert (report.accounting.used, report.tensors) == (len(tensors), len(tensors) + count)
    assert report.adapter == Adapter("LoRA", 8, None, False, count)


def test_nothing_goes_on_with_the_base_alone_unless_it_is_said(tmp_path: Path) -> None:
    """peft's model as torch saves it: the base, and an adapter that changes it."""
    layers = {
        "text.layers": 2,
        "text.d_model": 64,
        "text.q_heads": 4,
        "text.kv_heads": 2,
        "text.head_dim": 16,
    }
    dovetail.make("qwen3", tmp_path / "base", set={**layers, "text.d_ff": 96, "text.vocab": 64})
    base = load_file(tmp_path / "base" / "model.safetensors")
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in base.items()}
    for way, shape in {"A": (8, 64), "B": (64, 8)}.items():
        name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{way}.default.weight"
        wrapped[name] = torch.ones(shape)
    name = "base_model.model.model.layers.0.self_attn.q_proj."
    wrapped[f"{name}base_layer.weight"] = wrapped.pop(f"{name}weight")
    (tmp_path / "lora").mkdir()
    torch.save(wrapped, tmp_path / "lora" / "pytorch_model.bin")
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "lora")
    source, out = tmp_path / "lora", tmp_path / "out"
    assert dovetail.validate(source).is_whole
    verbs: dict[str, Callable[[], object]] = {
        "changed": lambda: dovetail.convert(source, out, to="hf"),
        "changed ": lambda: dovetail.split(source, out, nodes=2),
        "fingerprinted": lambda: dovetail.fingerprint(source),
        "loaded": lambda: dovetail.load(source),
    }
    for verb in verbs.values():
        with pytest.raises(CheckpointError, match="2 LoRA tensors not merged into the weights") as caught:
            verb()
        assert "merge_and_unload" in str(caught.value)
    assert not out.exists()
    dovetail.convert(source, out, to="hf", allow=["*.lora_?.default.weight"])
    assert dovetail.fingerprint(out) == dovetail.fingerprint(tmp_path / "base")
    assert json.loads((out / "dovetail.json").read_text())["allowed"]


def test_an_adapter_with_a_module_that_was_trained_whole_is_an_adapter(tmp_path: Path) -> None:
    """peft's `modules_to_save`."""
    tensors = adapter(header("qwen2", "hf")) | {"base_model.model.score.weight": ["F32", [3, 5]]}
    write_listing(tmp_path / "adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen2-0.5B"})
    report = look(tmp_path, tensors)
    assert (report.family, report.is_whole) == (None, False)
    assert said(report) == [
        (
            "adapter",
            "error",
            f"this is a LoRA adapter of rank 8 for Qwen/Qwen2-0.5B, not a model: {len(tensors) - 1} tensors to "
            "be added to the weights of one, first "
            "`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`; 1 tensor trained whole, first "
            "`base_model.model.score.weight`",
        )
    ]
    assert (report.findings[0].hint or "").startswith("merge it into `Qwen/Qwen2-0.5B`, ")
    assert report.adapter == Adapter("LoRA", 8, "Qwen/Qwen2-0.5B", True, len(tensors))


def test_a_module_that_was_trained_whole_beside_its_original_belongs_to_the_adapter(tmp_path: Path) -> None:
    """As `PeftModel.state_dict()` has it; without the adapter, the original is the model's."""
    tensors = in_memory(header("qwen3", "hf"))
    embed = tensors.pop("base_model.model.model.embed_tokens.weight")
    module = "base_model.model.model.embed_tokens"
    tensors[f"{module}.original_module.weight"] = embed
    tensors[f"{module}.modules_to_save.default.weight"] = embed
    report = look(tmp_path, tensors)
    assert (report.family, report.is_whole, report.wrappers[-1]) == ("qwen3", True, "original_module.")
    assert [code for code, *_ in said(report)] == ["adapter"]
    assert report.findings[0].tensors[-1] == f"{module}.modules_to_save.default.weight"


def test_an_adapter_cannot_be_let_pass(tmp_path: Path) -> None:
    listing = write_listing(tmp_path / "x.json", adapter(header("qwen2", "hf")))
    with pytest.raises(CheckpointError, match="this is a LoRA adapter of rank 8") as refusal:
        dovetail.plan_convert(listing, to="hf", allow=["*"])
    assert "--allow" not in (refusal.value.hint or "")


# -- one part, or all but one


@pytest.mark.parametrize(
    ("family", "layout", "lost"),
    [
        (family, layout, lost)
        for family, layout in (
            ("qwen2_vl", "hf"),
            ("qwen2_vl", "hf-4.52"),
            ("qwen2_vl", "litgpt-fork"),
            ("llava_onevision", "hf"),
            ("llava_onevision", "lmms"),
            ("pi0", "openpi"),
            ("pi05", "lerobot"),
            ("prismatic", "native"),
            ("prismatic", "openvla"),
            ("panovlm", "cora"),
        )
        for lost in plan_of(family, MODELS[family][0]).kinds
        if lost not in plan_of(family, MODELS[family][0]).family.optional
    ],
)
def test_a_part_that_is_not_there_is_the_one_that_is_named(
    family: str, layout: str, lost: str, tmp_path: Path
) -> None:
    """All parts but one: never whole, and the finding is about that part."""
    plan = plan_of(family, MODELS[family][0])
    gone = {one.name for one in plan.stored(plan.family.layout(layout)) if one.role == lost}
    left = {name: value for name, value in header(family, layout).items() if name not in gone}
    report = look(tmp_path, left)
    if report.family is not None:  # a family whose files may lack this part says so itself
        assert lost in plan.family.layout(layout).optional
        return
    assert report.closest is not None
    errors = [f for f in report.findings if f.severity == "error"]
    assert any(f.part == lost and f.code in ("missing-part", "missing") for f in errors), said(report)
    assert not [f for f in errors if f.code == "unknown-prefix"]


@pytest.mark.parametrize(
    ("family", "layout", "kept", "fits"),
    [
        ("qwen2_vl", "hf", "vision", "qwen2_vit under `visual.` (25 tensors)"),
        (
            "pi0",
            "openpi",
            "expert",
            "gemma_expert under `paligemma_with_expert.gemma_expert.model.` (28 tensors)",
        ),
        ("prismatic", "native", "vision", "siglip under `vision_backbone/featurizer.` (42 tensors)"),
        (
            "llava_onevision",
            "lmms",
            "vision",
            "siglip or siglip_naflex under `model.vision_tower.vision_tower.vision_model.` (37 tensors)",
        ),
    ],
)
def test_one_part_alone_is_no_model_but_is_recognised(
    family: str, layout: str, kept: str, fits: str, tmp_path: Path
) -> None:
    plan = plan_of(family, MODELS[family][0])
    mine = {one.name for one in plan.stored(plan.family.layout(layout)) if one.role == kept}
    report = look(tmp_path, {name: value for name, value in header(family, layout).items() if name in mine})
    assert (report.family, report.is_whole) == (None, False)
    assert report.closest is not None
    assert fits in report.closest.fits


def test_what_is_missing_does_not_speak_for_a_layout(tmp_path: Path) -> None:
    """A vision tower is stored alike in four layouts; LitGPT, which would miss fewer tensors, is not preferred."""
    tower = {name: value for name, value in header("qwen2_vl", "hf").items() if name.startswith("visual.")}
    report = look(tmp_path, tower)
    assert report.closest is not None
    assert (report.closest.family, report.closest.layout) == ("qwen2_vl", "hf")
    assert report.same_layouts == ("hf-base", "litgpt", "litgpt-legacy", "litgpt-fork")


def test_a_decoder_cut_out_of_a_larger_model_is_that_decoder(tmp_path: Path) -> None:
    text = {name: value for name, value in header("qwen2_vl", "hf").items() if not name.startswith("visual.")}
    report = look(tmp_path, text)
    assert (report.family, report.layout, report.is_whole) == ("qwen2", "hf", True)


# -- checkpoints in training


def training(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What Lightning 2 saves (`lightning.pytorch.trainer.connectors.checkpoint_connector.dump_checkpoint`)."""
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [1e-4]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-4, "resampler_heads": 6, "note": None},
    }


def test_a_lightning_checkpoint_is_its_model_and_the_rest_is_set_aside(tmp_path: Path) -> None:
    tensors = {
        name: torch.zeros(shape, dtype=torch.bfloat16)
        for name, (_, shape) in header("llava_onevision", "hf").items()
    }
    torch.save(training(tensors), tmp_path / "last.ckpt")
    report = dovetail.inspect(tmp_path / "last.ckpt")
    assert (report.family, report.layout, report.is_whole) == ("llava_onevision", "hf", True)
    assert report.wrappers == ("state_dict/", "model.")
    assert report.tensors == len(tensors)
    assert set(report.accounting.ignored) == {
        "training state `callbacks`",
        "training state `optimizer_states`",
    }


@pytest.mark.parametrize(("depth", "conflicts"), [(2, 0), (3, 1)])
def test_hyper_parameters_of_a_lightning_checkpoint_settle_what_is_open(
    depth: int, conflicts: int, tmp_path: Path
) -> None:
    """System 4's trainer writes its resampler's settings there and nowhere else (SYSTEMS 4.7)."""
    tensors = {
        name: torch.zeros(shape, dtype=torch.bfloat16)
        for name, (_, shape) in header("panovlm", "legacy").items()
    }
    checkpoint = training(tensors)
    checkpoint["hyper_parameters"] = {
        "resampler_norm_first": False,
        "resampler_depth": depth,
        "resampler_dropout": 0.05,
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    report = dovetail.inspect(tmp_path / "last.ckpt")
    assert (report.family, report.layout) == ("panovlm", "legacy")
    said_there = "hyper_parameters in the checkpoint: "
    assert report.config["resampler.norm_first"] == (False, "config", f"{said_there}resampler_norm_first")
    assert report.config["resampler.dropout"] == (0.05, "config", f"{said_there}resampler_dropout")
    assert report.config["resampler.depth"].value == 2
    errors = [f.message for f in report.findings if f.severity == "error"]
    assert len(errors) == conflicts
    assert all(message.endswith(f"and 3 in {said_there}resampler_depth") for message in errors)


def test_fsdp_and_compile_and_checkpointing_names_come_off_together(tmp_path: Path) -> None:
    wrapped = {
        f"module._orig_mod.{name.replace('layers.', 'layers.').replace('.mlp.', '._checkpoint_wrapped_module.mlp.')}".replace(
            "model.layers.0.", "model.layers.0._fsdp_wrapped_module."
        ): value
        for name, value in header("qwen3", "hf").items()
    }
    report = look(tmp_path, wrapped)
    assert (report.family, report.layout, report.is_whole) == ("qwen3", "hf", True)
    assert set(report.wrappers) == {
        "module.",
        "_orig_mod.",
        "_fsdp_wrapped_module.",
        "_checkpoint_wrapped_module.",
    }


def test_a_wrapper_around_some_names_only_is_no_wrapper(tmp_path: Path) -> None:
    """Two models in one file, one of them wrapped: nothing is taken off, and what fits nothing is named."""
    tensors = header("qwen3", "hf")
    report = look(tmp_path, {**tensors, **{f"module.{name}": value for name, value in tensors.items()}})
    assert not report.is_whole
    assert report.wrappers == ()
    unexpected = [name for f in report.findings if f.code == "unexpected" for name in f.tensors]
    assert sorted(unexpected) == sorted(f"module.{name}" for name in tensors)


def test_two_spellings_of_one_tensor_are_both_named(tmp_path: Path) -> None:
    """A wrapped and a bare copy of one tensor: taking the wrapper off would make two tensors of one name."""
    tensors = header("qwen3", "hf")
    name = "model.layers.0.mlp.up_proj.weight"
    twin = "model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight"
    report = look(tmp_path, {**tensors, twin: tensors[name]})
    assert not report.is_whole, said(report)
    assert any(twin in f.tensors or name in f.tensors for f in report.findings if f.severity == "error"), (
        said(report)
    )


@pytest.mark.parametrize(
    ("model_type", "family", "codes"),
    [
        ("qwen2", "qwen2", ["incomplete", "config-conflict", "missing"]),
        ("phi3_v", None, ["unknown-family"]),
        ("", None, ["incomplete", "config-conflict", "missing"]),
    ],
)
def test_whether_something_is_missing_depends_on_what_a_config_says(
    model_type: str, family: str | None, codes: list[str], tmp_path: Path
) -> None:
    tensors = header("qwen2", "hf")
    del tensors["model.norm.weight"]
    config = {"model_type": model_type} if model_type else {}
    write_listing(tmp_path / "config.json", {**config, "hidden_size": 64})
    report = look(tmp_path, tensors)
    assert (report.family, report.is_whole) == (family, False)
    assert [f.code for f in report.findings] == codes


def test_a_model_that_holds_all_of_llava_and_more_is_not_llava(tmp_path: Path) -> None:
    """LLaVA-NeXT has LLaVA's names and `image_newline`."""
    header = header_of(plan_of("llava", MODELS["llava"][0]), "hf")
    header["image_newline"] = ["F32", [61]]
    report = dovetail.inspect(write_listing(tmp_path / "next.json", header))
    assert report.family is None
    assert report.closest is not None
    assert report.closest.family == "llava"
    assert any("image_newline" in finding.message for finding in report.findings)
