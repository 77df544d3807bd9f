"""Contradictions between weights, config and certificate: an error with a way on, settled once it is taken."""

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import dovetail
from dovetail.cli import VERBS
from dovetail.cli.parser import Parser
from dovetail.errors import CheckpointError, UsageError
from dovetail.explain.trust import SIDES, TRUST_WEIGHTS
from dovetail.report import Report
from files import MODELS, header_of, plan_of, write_listing
from tiny_models import TEXT

SYSTEM_4 = {**MODELS["panovlm"][0], "resampler.depth": 2}


def edited(path: Path, **changes: Any) -> None:
    """A JSON file with other values at its top."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def saved(path: Path, **config: Any) -> Path:
    """A Qwen2 as transformers writes it, and its config as people edit it."""
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TEXT, tie_word_embeddings=True))
    model.save_pretrained(path)
    if config:
        edited(path / "config.json", **config)
    return path


def errors(report: Report) -> list[str]:
    return [one.message for one in report.findings if one.severity == "error"]


def overruled(report: Report) -> list[tuple[str, str]]:
    return [(one.severity, one.message) for one in report.findings if one.code == "overruled"]


# -- config against weights


def test_a_wrong_size_in_a_config_has_a_way_on(tmp_path: Path) -> None:
    """transformers writes it, somebody edits config.json, and what comes out opens in transformers again."""
    folder = saved(tmp_path / "it", hidden_size=64, num_hidden_layers=2)
    wrong = (
        "text.d_model is 32 in the weights (`model.embed_tokens.weight`) and 64 in config.json: hidden_size"
    )
    report = dovetail.validate(folder)
    assert errors(report)[1:] == [wrong]
    assert all(TRUST_WEIGHTS in str(one.hint) for one in report.findings if one.severity == "error")
    for refused in (
        lambda: dovetail.load(folder),
        lambda: dovetail.convert(folder, tmp_path / "out", to="litgpt"),
        lambda: dovetail.stamp(folder),
        lambda: dovetail.fingerprint(folder),
        lambda: dovetail.load(folder, trust="config"),
    ):
        with pytest.raises(CheckpointError) as refusal:
            refused()
        assert TRUST_WEIGHTS in str(refusal.value.hint)
    settled = dovetail.validate(folder, trust="weights")
    assert settled.is_whole
    assert ("warning", f"{wrong}; the weights count, as --trust weights says") in overruled(settled)
    loaded = dovetail.load(folder, trust="weights")
    with pytest.raises(CheckpointError):
        dovetail.save(loaded, tmp_path / "saved", like=folder)
    dovetail.save(loaded, tmp_path / "saved", like=folder, trust="weights")
    assert dovetail.validate(tmp_path / "saved").is_whole
    plan = dovetail.plan_convert(folder, trust="weights")
    assert "config.json: hidden_size was 64, is 32" in plan.corrected
    dovetail.convert(folder, tmp_path / "out", trust="weights")
    assert dovetail.validate(tmp_path / "out").is_whole
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 3)


def test_a_stamp_sets_aside_what_does_not_count(tmp_path: Path) -> None:
    folder = saved(tmp_path / "it", hidden_size=64)
    config = (folder / "config.json").read_bytes()
    done = dovetail.stamp(folder, trust="weights")
    assert done.notes == ("set aside: config.json: hidden_size says 64, 32 counts",)
    assert json.loads((folder / "dovetail.json").read_text())["set_aside"] == {"config.json: hidden_size": 64}
    assert (folder / "config.json").read_bytes() == config
    report = dovetail.validate(folder, values=True)
    assert report.is_whole
    assert overruled(report) == [
        (
            "note",
            "text.d_model is 32 in the weights (`model.embed_tokens.weight`) and 64 in config.json: hidden_size; "
            "the certificate sets it aside",
        )
    ]
    dovetail.load(folder)
    edited(folder / "config.json", hidden_size=128)  # what was set aside was another number
    assert len(errors(dovetail.validate(folder))) == 1


def test_a_head_that_a_config_calls_its_own_and_that_is_not_there(tmp_path: Path) -> None:
    folder = saved(tmp_path / "it", tie_word_embeddings=False)
    (message,) = errors(dovetail.validate(folder))
    assert message == "head is not in the file, and the config says tie_word_embeddings = false"
    assert dovetail.validate(folder, trust="weights").is_whole
    dovetail.convert(folder, tmp_path / "out", trust="weights")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    dovetail.stamp(folder, trust="weights")
    (tie,) = dovetail.validate(folder).ties
    assert (tie.flag, dovetail.validate(folder).is_whole) == (None, True)


# -- PanoVLM's metadata


METADATA = {
    "model_config": {
        "resampler_type": "qformer",
        "resampler_hidden_dim": 1536,
        "latent_dimension": 43,
        "resampler_config": {"hidden_dim": 47, "num_layers": 9, "d_state": 11, "norm_first": True},
    }
}
WRONG = {
    "resampler.hidden_dim is 47 in the weights": "1536 in checkpoint_metadata.json: model_config.resampler_hidden_dim",
    "resampler.depth is 2 in the weights": "9 in checkpoint_metadata.json: model_config.resampler_config.num_layers",
    "resampler is a bimamba by its tensors": "a qformer in checkpoint_metadata.json: model_config.resampler_type",
}


def panovlm(path: Path) -> Path:
    dovetail.make("panovlm", path, set=SYSTEM_4, layout="legacy", dtype="float32")
    (path / "checkpoint_metadata.json").write_text(json.dumps(METADATA))
    return path


def test_validate_and_stamp_see_the_same(tmp_path: Path) -> None:
    folder = panovlm(tmp_path / "it")
    found = sorted(errors(dovetail.validate(folder)))
    assert len(found) == 3
    for begin, end in WRONG.items():
        assert any(one.startswith(begin) and one.endswith(end) for one in found)
    for overwrite in (False, True):
        with pytest.raises(CheckpointError) as refusal:
            dovetail.stamp(folder, overwrite=overwrite)
        assert all(one in str(refusal.value) for one in found)
        assert str(refusal.value.hint).startswith(TRUST_WEIGHTS)
    done = dovetail.stamp(folder, trust="weights")
    assert sorted(done.notes) == [
        "put right: checkpoint_metadata.json: model_config.resampler_config.num_layers was 9, is 2",
        "put right: checkpoint_metadata.json: model_config.resampler_hidden_dim was 1536, is 47",
        "put right: checkpoint_metadata.json: model_config.resampler_type was qformer, is bimamba",
    ]
    theirs = json.loads((folder / "checkpoint_metadata.json").read_text())["model_config"]
    assert (theirs["resampler_type"], theirs["resampler_hidden_dim"]) == ("bimamba", 47)
    assert (theirs["resampler_config"]["num_layers"], theirs["resampler_config"]["depth"]) == (2, 2)
    assert "set_aside" not in json.loads((folder / "dovetail.json").read_text())
    assert dovetail.validate(folder, values=True).is_whole


def test_what_a_torch_file_itself_says_wrong_is_set_aside(tmp_path: Path) -> None:
    """Lightning's hyper-parameters are inside the weights file: nobody rewrites them, every verb knows."""
    folder = tmp_path / "it"
    dovetail.make("panovlm", folder, set=SYSTEM_4, layout="legacy", dtype="float32")
    content = torch.load(folder / "last.ckpt", weights_only=True)
    hyper = {"resampler_hidden_dim": 1536, "resampler_type": "mlp", "resampler_expand": 2.0}
    torch.save({**content, "hyper_parameters": hyper}, folder / "last.ckpt")
    assert len(errors(dovetail.validate(folder))) == 3
    done = dovetail.stamp(folder, trust="weights")
    assert len(done.notes) == 3
    assert all(one.startswith("set aside: hyper_parameters in the checkpoint: ") for one in done.notes)
    assert len(overruled(dovetail.validate(folder))) == 3
    dovetail.convert(folder, tmp_path / "out")
    assert torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)["hyper_parameters"] == hyper
    report = dovetail.validate(tmp_path / "out")
    assert (report.is_whole, len(overruled(report))) == (True, 3)


# -- certificate against config


def test_what_a_certificate_and_a_config_say_of_a_setting_must_agree(tmp_path: Path) -> None:
    folder = saved(tmp_path / "it")
    dovetail.stamp(folder, set={"text.norm_eps": 1e-5}, overwrite=True)
    rope = {"rope_type": "default", "rope_theta": 5e5}
    edited(folder / "config.json", rope_parameters=rope)
    found = [one for one in dovetail.inspect(folder).findings if one.severity == "error"]
    assert [one.message for one in found] == [
        "text.rope_theta is 10000.0 in dovetail.json: config.text.rope_theta and 500000.0 in config.json: "
        "rope_parameters.rope_theta"
    ]
    assert found[0].hint == "`--trust config` or `--trust stamp` says which of the two is right"
    for trust, theta in (("config", 5e5), ("stamp", 1e4)):
        report = dovetail.inspect(folder, trust=trust)
        assert (report.is_whole, report.config["text.rope_theta"].value) == (True, theta)
        assert report.config["text.norm_eps"].value == (1e-6 if trust == "config" else 1e-5)
    dovetail.convert(folder, tmp_path / "out", trust="stamp")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"] == {
        **rope,
        "rope_theta": 1e4,
    }
    assert dovetail.inspect(tmp_path / "out").is_whole
    dovetail.stamp(folder, trust="config")
    assert dovetail.inspect(folder).config["text.rope_theta"].value == 5e5


VARIANTS = {
    "llava_qwen": "base",
    "llava_qwen_with_alternating_attn": "alternating",
    "llava_qwen_with_alternating_cross_attn": "alternating_cross",
}


def onevision(path: Path, model_type: str, stamped: str | None = None) -> Path:
    """A LLaVA-OneVision header with a config, and a certificate that names a variant."""
    path.mkdir()
    header = header_of(plan_of("llava_onevision", MODELS["llava_onevision"][0]), "lmms")
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if stamped is not None:
        said = {"schema": 1, "family": "llava_onevision", "config": {"variant": {"value": stamped}}}
        (path / "dovetail.json").write_text(json.dumps(said))
    return write_listing(path / "x.json", header)


def test_one_variant_in_one_report(tmp_path: Path) -> None:
    path = onevision(tmp_path / "it", "llava_qwen", "alternating")
    report = dovetail.inspect(path)
    assert errors(report) == [
        "the variant is alternating in dovetail.json: config.variant and base in config.json: model_type = llava_qwen"
    ]
    for trust, variant in ((None, "alternating"), ("stamp", "alternating"), ("config", "base")):
        report = dovetail.inspect(path, trust=trust)
        assert (report.variant, report.config["variant"].value) == (variant, variant)
        assert report.is_whole is (trust is not None)
    assert dovetail.inspect(path, set={"variant": "alternating_cross"}).variant == "alternating_cross"
    with pytest.raises(UsageError, match="there is no variant `foo`") as refusal:
        dovetail.inspect(path, set={"variant": "foo"})
    assert refusal.value.hint == "it is one of: base, alternating, alternating_cross"
    foreign = onevision(tmp_path / "foreign", "llava_qwen", "foo")
    assert errors(dovetail.inspect(foreign)) == [
        "the variant cannot be 'foo' as dovetail.json: config.variant says"
    ]


@pytest.mark.parametrize(("model_type", "variant"), VARIANTS.items())
def test_what_is_written_names_the_variant_that_counts(model_type: str, variant: str, tmp_path: Path) -> None:
    model = MODELS["llava_onevision"][0]
    dovetail.make("llava_onevision", tmp_path / "it", set=model, layout="lmms", sparse=True)
    edited(tmp_path / "it" / "config.json", model_type="llava_qwen_with_alternating_attn")
    dovetail.convert(tmp_path / "it", tmp_path / "out", set={"variant": variant})
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == model_type
    report = dovetail.inspect(tmp_path / "out")
    assert (report.variant, report.is_whole) == (variant, True)


# -- another certificate


def test_the_certificate_of_another_checkpoint_is_gone_on_without(tmp_path: Path) -> None:
    folder = saved(tmp_path / "it")
    dovetail.make("qwen2", tmp_path / "other", set=MODELS["qwen2"][0], sparse=True)
    stamp = (
        json.loads((tmp_path / "other" / "dovetail.json").read_text())
        if (tmp_path / "other" / "dovetail.json").exists()
        else None
    )
    if stamp is None:
        dovetail.stamp(tmp_path / "other", values=False)
        stamp = json.loads((tmp_path / "other" / "dovetail.json").read_text())
    (folder / "dovetail.json").write_text(json.dumps({**stamp, "init": {"text.norm.weight": "random"}}))
    assert not dovetail.validate(folder).is_whole
    assert not dovetail.validate(folder, trust="stamp").is_whole
    assert dovetail.validate(folder, trust="weights").is_whole
    model = dovetail.load(folder, trust="weights")
    assert model.tags == {}  # what is random in another checkpoint is not random here
    dovetail.stamp(folder, trust="weights")
    assert dovetail.validate(folder, values=True).is_whole


# -- everywhere


def test_every_verb_that_opens_a_checkpoint_can_be_told_whom_to_trust() -> None:
    for verb in VERBS:
        command = Parser(verb, "what it does", f"dovetail {verb}")
        import_module(f"dovetail.cli.{verb}").configure(command)
        words = {word for action in command._actions for word in action.option_strings}
        sources = ("checkpoint", "donors", "directory", "a", "model")
        opens = any(action.dest in sources for action in command._actions)
        assert ("--trust" in words) is opens, verb
    for name in dovetail.__all__:
        one = getattr(dovetail, name)
        if inspect.isfunction(one) and "as_" in inspect.signature(one).parameters:
            assert "trust" in inspect.signature(one).parameters, name


@pytest.mark.parametrize("use", [dovetail.inspect, dovetail.load, dovetail.fingerprint])
def test_another_word_is_refused(use: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`me` is no side that can be trusted") as refusal:
        use(saved(tmp_path / "it"), trust="me")
    assert refusal.value.hint == f"one of: {', '.join(SIDES)}"


# -- what nobody says


def test_all_that_is_open_is_asked_for_at_once(tmp_path: Path) -> None:
    """Of the resampler and of the whole model in one error; the names of a layout say whose code it is."""
    model = {**SYSTEM_4, "text.head_dim": 11}
    folder = tmp_path / "it"
    dovetail.make("panovlm", folder, set=model, layout="legacy", dtype="float32")
    with pytest.raises(UsageError) as refusal:
        dovetail.load(folder)
    assert list(refusal.value.details) == [
        "vision.heads",
        "resampler.norm_first",
        "text.q_heads",
        "text.kv_heads",
        "text.head_dim",
    ]
    report = dovetail.inspect(folder)
    assert report.config["pipeline"] == ("panovlm", "weights", "the names of layout legacy")
    loaded = dovetail.load(folder, settings={"norm_first": True, "head_dim": 11, "heads": 6})
    assert loaded.inputs.pipeline.has_positions is False
    dovetail.convert(folder, tmp_path / "cora", to="cora", set={"head_dim": 11})
    assert dovetail.inspect(tmp_path / "cora").config["pipeline"].value == "panovlm"
