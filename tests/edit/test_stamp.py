"""Stamps beside old checkpoints: what the weights tell, what is said, what is refused, what stays open."""

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import CheckpointError, UsageError, WriteError
from files import MODELS, header_of, plan_of, write_listing
from homes import homes

EVERY = [(id, number) for id in MODELS for number in range(len(MODELS[id])) if homes(id, number)]
# System 4's resampler, and little of the rest: hidden 1024, expand 1.75, 64 states, 4 taps, rank 64
SYSTEM_4 = {
    "vision.layers": 1,
    "vision.d_ff": 16,
    "text.layers": 1,
    "text.vocab": 64,
    "text.d_ff": 32,
    "resampler.depth": 4,
}
NUMBERS = {"hidden_dim": 1024, "d_inner": 1792, "d_state": 64, "d_conv": 4, "dt_rank": 64, "depth": 4}


def made(path: Path, family: str = "qwen2", number: int = 0, **options: Any) -> Path:
    """A tiny checkpoint without a stamp."""
    sizes = options.pop("sizes", MODELS[family][number])
    dovetail.make(family, path, set=sizes, **{"dtype": "float32", "seed": 5, **options})
    return path


def read(path: Path) -> Any:
    """A JSON file, strictly."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


def weights(path: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and times of all weights."""
    files = [one for one in path.iterdir() if one.suffix in (".safetensors", ".ckpt", ".pth", ".pt")]
    return {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in files}


@pytest.mark.parametrize(("family", "number"), EVERY)
def test_a_stamped_checkpoint_fits_its_stamp(family: str, number: int, tmp_path: Path) -> None:
    folder = made(tmp_path / "it", family, number, layout=homes(family, number)[0])
    before = weights(folder)
    done = dovetail.stamp(folder)
    assert weights(folder) == before
    stamp = read(folder / "dovetail.json")
    assert stamp["fingerprint"] == done.fingerprint == dovetail.fingerprint(folder)
    report = dovetail.validate(folder, values=True)
    assert [finding for finding in report.findings if finding.severity == "error"] == []
    assert report.unchecked == ()
    assert done.still_open.keys().isdisjoint(stamp["config"])
    assert {**done.values, **done.still_open}.keys() | {"variant"} >= dovetail.inspect(folder).config.keys()


@pytest.mark.parametrize("layout", ["legacy", "cora"])
def test_the_resampler_of_system_4(layout: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", sizes=SYSTEM_4, layout=layout, dtype="bfloat16")
    done = dovetail.stamp(folder, set={"norm_first": True, "dropout": 0.05})
    config = read(folder / "dovetail.json")["config"]
    assert {name: config[f"resampler.{name}"]["value"] for name in NUMBERS} == NUMBERS
    assert {config[f"resampler.{name}"]["source"] for name in NUMBERS} == {"weights"}
    assert config["resampler.expand"]["value"] == 1.75
    assert config["resampler.norm_first"] == {
        "value": True,
        "source": "stamp",
        "evidence": "--set: resampler.norm_first",
    }
    theirs = read(folder / "checkpoint_metadata.json")["model_config"]
    assert {name: theirs["resampler_config"][name] for name in NUMBERS} == NUMBERS
    assert theirs["resampler_config"]["norm_first"] is True
    assert (theirs["resampler_type"], theirs["resampler_hidden_dim"]) == ("bimamba", 1024)
    assert theirs["latent_dimension"] == 768
    assert "resampler.norm_eps" in done.still_open  # a labelled default is nobody's word
    report = dovetail.inspect(folder)
    assert report.is_whole
    assert report.config["resampler.norm_first"].value is True


def test_expand_gives_d_inner_back(tmp_path: Path) -> None:
    """1854 of 896: the plain ratio, times the width, is rounded down to 1853."""
    sizes = {**SYSTEM_4, "resampler.hidden_dim": 896, "resampler.d_inner": 1854, "resampler.dt_rank": 56}
    folder = made(tmp_path / "it", "panovlm", sizes=sizes, layout="legacy")
    dovetail.stamp(folder)
    theirs = read(folder / "checkpoint_metadata.json")["model_config"]["resampler_config"]
    assert theirs["d_inner"] == 1854
    assert int(theirs["expand"] * theirs["hidden_dim"]) == 1854


@dataclasses.dataclass
class ResamplerConfig:
    """A typed config, as Lightning pickles it."""

    norm_first: bool = True
    dropout: float = 0.05


class ModelConfig:
    """A typed config with another in it."""

    def __init__(self) -> None:
        self.vision_name = "google/siglip-so400m"
        self.resampler_config = ResamplerConfig()
        self.path = Path("/somewhere")


def lightning(path: Path, **values: Any) -> Path:
    """A Lightning checkpoint with hyper-parameters."""
    folder = made(path, "panovlm", layout="legacy")
    content = torch.load(folder / "last.ckpt", weights_only=True)
    torch.save({**content, "epoch": 3, "global_step": 70, **values}, folder / "last.ckpt")
    return folder


def test_typed_hyper_parameters_give_valid_json(tmp_path: Path) -> None:
    hyper = {"model_config": ModelConfig(), "vision_name": "siglip", "stage": "finetune", "lr": float("nan")}
    folder = lightning(tmp_path / "it", hyper_parameters=hyper)
    dovetail.stamp(folder)
    config = read(folder / "dovetail.json")["config"]
    place = "hyper_parameters in the checkpoint: model_config.resampler_config.norm_first"
    assert config["resampler.norm_first"] == {"value": True, "source": "config", "evidence": place}
    theirs = read(folder / "checkpoint_metadata.json")
    assert theirs["stage"] == "finetune"
    assert theirs["epoch_info"] == {"current_epoch": 3, "global_step": 70}
    assert theirs["model_config"]["vision_name"] == "siglip"
    assert theirs["model_config"]["resampler_config"]["dropout"] == 0.05


def test_fields_of_others_are_kept(tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    existing = {
        "experiment_name": "run 7",
        "model_config": {"image_size": [256, 256], "resampler_config": {"dropout": 0.1, "theirs": [1]}},
        "epoch_info": {"val_loss": float("nan"), "current_epoch": 2},
        "wandb": {"project": "p"},
    }
    (folder / "checkpoint_metadata.json").write_text(json.dumps(existing))
    dovetail.stamp(folder)
    theirs = read(folder / "checkpoint_metadata.json")
    assert theirs["experiment_name"] == "run 7"
    assert theirs["wandb"] == {"project": "p"}
    assert theirs["epoch_info"] == {"val_loss": "NaN", "current_epoch": 2}
    assert theirs["model_config"]["image_size"] == [256, 256]
    resampler = theirs["model_config"]["resampler_config"]
    assert (resampler["dropout"], resampler["theirs"], resampler["d_inner"]) == (0.1, [1], 89)


def test_half_a_metadata_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    """What system 4 leaves when its writer fails."""
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    (folder / "checkpoint_metadata.json").write_text('{"model_config": {"resampler_config": ')
    with pytest.raises(UsageError, match="that is there cannot be read"):
        dovetail.stamp(folder)
    assert not (folder / "dovetail.json").exists()
    dovetail.stamp(folder, overwrite=True)
    assert read(folder / "checkpoint_metadata.json")["model_config"]["resampler_config"]["d_inner"] == 89


def test_metadata_of_another_resampler_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    (folder / "checkpoint_metadata.json").write_text('{"model_config": {"resampler_type": "mlp"}}')
    with pytest.raises(
        CheckpointError, match=r"is a bimamba by its tensors .* and a mlp in checkpoint_metadata.json"
    ):
        dovetail.stamp(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"d_state": 32},
            r"resampler.d_state is 11 in the weights \(`.*A_log`.* and 32 in --set: resampler.d_state",
        ),
        ({"resampler.d_inner": 94}, r"resampler.d_inner is 89 in the weights"),
        ({"expand": 2.0}, r"resampler.expand is 1.89\d* in the weights .* and 2.0 in --set"),
        ({"text.layers": 9}, r"text.layers is 3 in the weights"),
        ({"head_dim": 9}, r"text.head_dim cannot be 9 as --set: text.head_dim says; the weights say"),
    ],
    ids=str,
)
def test_what_contradicts_the_weights_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=message):
            dovetail.stamp(folder, set=given, overwrite=overwrite)
    assert not (folder / "dovetail.json").exists()


def test_an_expand_that_means_the_same_is_taken(tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    dovetail.stamp(folder, set={"expand": 89.4 / 47})
    assert read(folder / "dovetail.json")["config"]["resampler.d_inner"]["value"] == 89


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"norm_frist": True}, "no value `norm_frist`; did you mean norm_first"),
        ({"layers": 3}, "several parts have a layers"),
        ({"norm_first": "yes"}, "`yes` is no value of resampler.norm_first"),
        ({"text.rope_theta": "big"}, "text.rope_theta cannot be 'big'"),
    ],
    ids=str,
)
def test_what_cannot_be_said_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    with pytest.raises(UsageError, match=message):
        dovetail.stamp(folder, set=given)


def test_a_config_that_says_otherwise_wins_unless_overwritten(tmp_path: Path) -> None:
    hyper = {"resampler_norm_first": False}
    folder = lightning(tmp_path / "it", hyper_parameters=hyper)
    with pytest.raises(UsageError, match=r"is False in hyper_parameters .* and True in --set"):
        dovetail.stamp(folder, set={"norm_first": True})
    dovetail.stamp(folder, set={"norm_first": True}, overwrite=True)
    assert dovetail.inspect(folder).config["resampler.norm_first"].value is True


def test_a_stamp_that_agrees_is_added_to(tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    dovetail.stamp(folder, set={"norm_first": True})
    first = read(folder / "dovetail.json")
    dovetail.stamp(folder, set={"dropout": 0.1})
    second = read(folder / "dovetail.json")
    added = {"value": 0.1, "source": "stamp", "evidence": "--set: resampler.dropout"}
    assert second["config"] == {**first["config"], "resampler.dropout": added}
    with pytest.raises(
        UsageError, match=r"is True in dovetail.json: config.resampler.norm_first and False in --set"
    ):
        dovetail.stamp(folder, set={"norm_first": False})
    dovetail.stamp(folder, set={"norm_first": False}, overwrite=True)
    third = read(folder / "dovetail.json")["config"]
    assert (third["resampler.norm_first"]["value"], third["resampler.dropout"]["value"]) == (False, 0.1)


def test_values_that_changed_need_overwriting(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    dovetail.stamp(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"other hashes for 1 tensor: `text.norm.weight`"):
        dovetail.stamp(folder)
    done = dovetail.stamp(folder, overwrite=True)
    assert done.fingerprint == dovetail.fingerprint(folder)


def test_the_stamp_of_another_size_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    made(tmp_path / "other", sizes={**MODELS["qwen2"][0], "text.d_ff": 89})
    dovetail.stamp(tmp_path / "other")
    (folder / "dovetail.json").write_bytes((tmp_path / "other" / "dovetail.json").read_bytes())
    with pytest.raises(UsageError, match=r"dovetail.json does not fit the weights"):
        dovetail.stamp(folder)
    done = dovetail.stamp(folder, overwrite=True)
    assert done.notes == ("nothing was taken from the older dovetail.json: it did not fit the weights",)
    assert dovetail.validate(folder, values=True).is_whole


def test_tags_and_the_past_are_kept(tmp_path: Path) -> None:
    """What `convert` wrote down of a source that is gone; a tag goes when the values do."""
    dovetail.convert(made(tmp_path / "made"), tmp_path / "it")
    path = tmp_path / "it" / "dovetail.json"
    names = ("text.norm.weight", "text.embed.weight")
    path.write_text(
        json.dumps({**read(path), "init": dict.fromkeys(names, "random"), "allowed": ["a scratch"]})
    )
    before = read(path)
    dovetail.stamp(tmp_path / "it")
    after = read(path)
    assert {key: after[key] for key in ("init", "allowed", "source", "dropped", "leaves")} == {
        key: before[key] for key in ("init", "allowed", "source", "dropped", "leaves")
    }
    tensors = load_file(tmp_path / "it" / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, tmp_path / "it" / "model.safetensors")
    dovetail.stamp(tmp_path / "it", overwrite=True)
    assert read(path)["init"] == {"text.embed.weight": "random"}


def test_a_stamp_is_carried_on_by_convert(tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    done = dovetail.stamp(folder, set={"norm_first": True})
    converted = dovetail.convert(folder, tmp_path / "cora", to="cora")
    assert converted.fingerprint == done.fingerprint
    assert dovetail.inspect(tmp_path / "cora").config["resampler.norm_first"].value is True


def test_one_file_among_others_has_a_stamp_of_its_own(tmp_path: Path) -> None:
    folder = made(tmp_path / "it", "panovlm", layout="legacy")
    (folder / "last.ckpt").rename(folder / "epoch=3.ckpt")
    done = dovetail.stamp(folder / "epoch=3.ckpt", set={"norm_first": True})
    assert [Path(path).name for path in done.files] == ["epoch=3.dovetail.json", "checkpoint_metadata.json"]
    report = dovetail.validate(folder / "epoch=3.ckpt", values=True)
    assert report.config["resampler.norm_first"].evidence.startswith("epoch=3.dovetail.json: ")
    assert report.unchecked == ()


def test_it_may_be_written_elsewhere(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    before = sorted(folder.iterdir())
    done = dovetail.stamp(folder, out=tmp_path / "a" / "b")
    assert list(done.files) == [str(tmp_path / "a" / "b" / "dovetail.json")]
    assert (tmp_path / "a" / "b" / "dovetail.json").exists()
    assert sorted(folder.iterdir()) == before
    with pytest.raises(UsageError, match=r"dovetail.json` exists"):
        dovetail.stamp(folder, out=tmp_path / "a" / "b")
    dovetail.stamp(folder, out=tmp_path / "a" / "b", overwrite=True)


def test_headers_alone_can_be_stamped(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    done = dovetail.stamp(folder, values=False)
    assert done.fingerprint is None
    assert set(read(folder / "dovetail.json")["leaves"].values()) == {None}
    assert dovetail.validate(folder, values=True).unchecked == ("content (dovetail.json has no hashes)",)
    done = dovetail.stamp(folder)
    dovetail.stamp(folder, values=False)  # the hashes that are there stay
    assert read(folder / "dovetail.json")["fingerprint"] == done.fingerprint


def test_a_listing_has_no_values_to_hash(tmp_path: Path) -> None:
    path = write_listing(tmp_path / "it.json", header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf"))
    with pytest.raises(UsageError, match="nothing to hash") as caught:
        dovetail.stamp(path)
    assert "--no-values" in str(caught.value)
    assert list(dovetail.stamp(path, values=False).files) == [str(tmp_path / "it.dovetail.json")]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    before = sorted(folder.iterdir())
    assert not dovetail.stamp(folder, dry_run=True).is_written
    assert sorted(folder.iterdir()) == before


def test_a_damaged_checkpoint_is_not_stamped(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be stamped as it is"):
        dovetail.stamp(folder)


def test_half_a_stamp_is_an_error_and_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    dovetail.stamp(folder)
    path = folder / "dovetail.json"
    path.write_bytes(path.read_bytes()[:-40])
    assert [one.code for one in dovetail.inspect(folder).findings if one.severity == "error"] == [
        "certificate-unreadable"
    ]
    with pytest.raises(UsageError, match=r"dovetail.json cannot be read"):
        dovetail.stamp(folder)
    dovetail.stamp(folder, overwrite=True)
    assert dovetail.validate(folder, values=True).is_whole


def test_a_stamp_from_the_future_is_not_replaced(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    (folder / "dovetail.json").write_text('{"schema": 9}')
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="schema 9"):
            dovetail.stamp(folder, overwrite=overwrite)


def test_a_place_that_cannot_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    (folder / "dovetail.json").mkdir()  # even root cannot rename a file over a folder
    with pytest.raises((WriteError, UsageError)):
        dovetail.stamp(folder, overwrite=True)
    assert [one.name for one in folder.iterdir() if "partial" in one.name] == []
    assert stat.S_ISDIR((folder / "dovetail.json").stat().st_mode)


def test_an_older_stamp_with_odd_words_is_written_anew(tmp_path: Path) -> None:
    folder = made(tmp_path / "it")
    dovetail.stamp(folder, values=False)
    path = folder / "dovetail.json"
    path.write_text(json.dumps({**read(path), "allowed": 1.5, "init": 7, "source": [], "set_aside": 3}))
    dovetail.stamp(folder, values=False)
    assert read(path)["allowed"] == []


def test_what_is_set_puts_right_what_contradicts_itself(tmp_path: Path) -> None:
    """Head counts of one config that the sizes cannot have: --set says which is wrong, and is written down."""
    sizes = {**MODELS["llama"][0], "text.q_heads": 4, "text.kv_heads": 2}
    dovetail.make("llama", tmp_path / "m", set=sizes, dtype="float32")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config.pop("head_dim", None)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "num_attention_heads": 7}))
    with pytest.raises(CheckpointError, match=r"cannot be 7 as config\.json"):
        dovetail.stamp(tmp_path / "m")
    dovetail.stamp(tmp_path / "m", set={"text.q_heads": 4})
    report = dovetail.inspect(tmp_path / "m")
    assert report.is_whole
    assert report.config["text.q_heads"].value == 4
