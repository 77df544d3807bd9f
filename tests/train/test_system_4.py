"""System 4 from end to end: a PanoVLM with a BiMamba of sizes that no default has, trained, saved, evaluated.

What its project loses (SYSTEMS 4.7-4.9) is there: evaluated from the checkpoint alone, with its stamp or
without, from our save or from Lightning's, the answers and the loss are those of the model in memory.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

import dovetail
from dovetail.data.batches import Batches
from dovetail.data.labels import read_labeller
from dovetail.data.manifest import open_manifest
from dovetail.errors import CheckpointError
from dovetail.train.evaluate import evaluate
from dovetail.train.module import TrainingModule
from dovetail.train.trainer import Trainer
from files import scoped
from inputs.golden_images import noise
from run.beside import QWEN, byte_level, template

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
VISION = {"layers": 2, "d_vision": 24, "heads": 3, "d_ff": 31, "patch": 8, "positions": 16, "channels": 3}
TEXT = {"layers": 2, "d_model": 36, "q_heads": 3, "kv_heads": 1, "head_dim": 12, "d_ff": 44, "vocab": 448}
# hidden 24, expand 1.75: an inner width of 42, which none of the four defaults has
BIMAMBA = {
    "hidden_dim": 24,
    "depth": 2,
    "d_inner": 42,
    "d_state": 6,
    "d_conv": 3,
    "dt_rank": 2,
    "out_dim": 20,
}
SAID = {
    "resampler.norm_first": False,
    "vision.heads": 3,
    "text.head_dim": 12,
    "text.rope_theta": 10_000.0,
    "crop_strategy": "sliding_window",
    "fov_deg": 180.0,
}
ANSWERS = ["A small house.", "two boats", "the sea"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    """Questions about three panoramas."""
    folder: Path = tmp_path_factory.mktemp("panoramas")
    records = []
    for i, answer in enumerate(ANSWERS):
        Image.fromarray(noise(32, 64, seed=i)).save(folder / f"{i}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhat is in the picture?"},
            {"from": "gpt", "value": answer},
        ]
        records.append({"image": f"{i}.png", "kind": "scene", "conversations": turns})
    (folder / "val.json").write_text(json.dumps(records))
    return folder / "val.json"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: Any) -> Path:
    """A new model as PanoVLM's trainer names it, with a tokenizer, and the metadata of an earlier stage."""
    folder: Path = tmp_path_factory.mktemp("system4") / "begun"
    sizes = {
        **scoped("vision", VISION),
        **scoped("text", TEXT),
        "resampler": "bimamba",
        **scoped("resampler", BIMAMBA),
    }
    dovetail.make("panovlm", folder, set=sizes, layout="legacy", dtype="float32", seed=1)
    earlier = {
        "experiment_name": "run 7",
        "stage": "vision",
        "epoch_info": {"current_epoch": 9, "val_loss": 8.0},
        "training_config": {"learning_rate": 1.0, "vision_trainable_blocks": 2},
    }
    (folder / "checkpoint_metadata.json").write_text(json.dumps(earlier))
    dovetail.stamp(folder, set=SAID)
    tokenizer = byte_level([*QWEN, "<|vision|>"], eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template("qwen2")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(begun: Path, data: Path, tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    """The last save of a training, and what the Trainer measured of the model in memory."""
    labeller = read_labeller(begun)
    rows = [labeller.labelled(sample) for sample in open_manifest(data)]
    out = tmp_path_factory.mktemp("run")
    args = transformers.TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        num_train_epochs=8,
        per_device_train_batch_size=3,
        learning_rate=2e-2,
        lr_scheduler_type="constant",
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=8,
        eval_steps=8,
    )
    trainer = Trainer(
        TrainingModule(dovetail.load(begun)),
        args,
        data=rows,
        val_data=rows,
        collate=Batches(labeller.inputs),
        like=begun,
        known={"data": "abcd"},
    )
    trainer.train()
    return out / "last", [one for one in trainer.state.log_history if "eval_loss" in one][-1]


def counted(place: Path, data: Path) -> dict[str, Any]:
    """What `evaluate` finds, from the checkpoint alone; not what it is called, and what its files leave out."""
    found = evaluate(place, data, batch=2).as_json()
    return {key: value for key, value in found.items() if key not in ("checkpoint", "seconds", "assumed")}


def test_a_save_is_evaluated_from_itself_alone(trained: Any, data: Path, tmp_path: Path) -> None:
    place, measured = trained
    alone = tmp_path / "alone"
    shutil.copytree(place, alone)
    found = counted(alone, data)
    assert found["loss"] == pytest.approx(measured["eval_loss"], abs=1e-6)
    assert found["token_accuracy"] == measured["eval_token_accuracy"]
    assert found["kinds"].keys() == {"scene"}
    assert found["loss"] < 4  # it has learned something
    config = dovetail.inspect(alone).config
    assert {name: config[f"resampler.{name}"].value for name in BIMAMBA} == BIMAMBA
    assert {name: config[name].value for name in SAID} == SAID

    (alone / "dovetail.json").unlink()
    assert counted(alone, data) == found
    metadata = json.loads((alone / "checkpoint_metadata.json").read_text())
    metadata["model_config"]["resampler_config"]["norm_first"] = True
    (alone / "checkpoint_metadata.json").write_text(json.dumps(metadata))
    assert counted(alone, data)["loss"] != found["loss"]  # no shape shows it
    metadata["model_config"]["resampler_config"]["d_state"] = 7
    (alone / "checkpoint_metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"resampler.d_state is 6 in the weights .* and 7 in"):
        evaluate(alone, data)


def test_what_the_project_keeps_beside_a_save(trained: Any) -> None:
    place, measured = trained
    found = json.loads((place / "checkpoint_metadata.json").read_text())
    assert (found["experiment_name"], found["stage"]) == ("run 7", "vision")
    model = found["model_config"]
    assert {name: model["resampler_config"][name] for name in BIMAMBA} == BIMAMBA
    assert (model["resampler_config"]["expand"], model["resampler_config"]["norm_first"]) == (1.75, False)
    assert (model["resampler_type"], model["resampler_hidden_dim"]) == ("bimamba", 24)
    assert found["epoch_info"] == {"current_epoch": 8, "global_step": 8, "val_loss": measured["eval_loss"]}
    training = found["training_config"]
    assert (
        training.items()
        >= {
            "learning_rate": 2e-2,
            "batch_size": 3,
            "epochs": 8,
            "crop_strategy": "sliding_window",
            "vision_trainable_blocks": 2,
        }.items()
    )
    assert found["dataset"] == {"fingerprint": "abcd"}
    assert found["checkpoint_info"]["torch_version"] == torch.__version__


def test_what_lightning_saves_is_evaluated_the_same(trained: Any, data: Path, tmp_path: Path) -> None:
    """A module with its resampler and projector under two attributes, saved by Lightning's own writer."""
    lightning = pytest.importorskip("lightning")
    place, _ = trained
    expected = counted(place, data)
    content = torch.load(place / "last.ckpt", weights_only=True)["state_dict"]

    class Pano(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, **hyper: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = nested(content)

        def training_step(self, batch: Any) -> Any:
            return sum(one.sum() for one in self.parameters()) * 0

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.0, weight_decay=0.0)

    module = Pano(
        resampler_type="bimamba",
        resampler_norm_first=False,
        resampler_depth=2,
        resampler_hidden_dim=24,
        resampler_expand=1.75,
        resampler_d_state=6,
        latent_dimension=20,
        stage="finetune",
        vision_config={"num_attention_heads": 3},
        text_config={"num_attention_heads": 3, "head_dim": 12, "rope_theta": 10_000.0},
        crop_strategy="sliding_window",
        fov_deg=180.0,
    )
    trainer = lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(torch.zeros(1, 1))
    trainer.fit(module, loader)
    run = tmp_path / "lightning"
    run.mkdir()
    trainer.save_checkpoint(run / "epoch=0-val_loss=0.5.ckpt")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(place / name, run / name)
    state = torch.load(run / "epoch=0-val_loss=0.5.ckpt", weights_only=False)["state_dict"]
    assert {name for name in state if ".resampler.input_proj.weight" in name} == {
        "model.resampler_module.resampler.input_proj.weight",
        "model.resampler.input_proj.weight",
    }
    assert counted(run / "epoch=0-val_loss=0.5.ckpt", data) == expected


def nested(content: dict[str, Any]) -> Any:
    """Modules within modules whose `state_dict` has these names; equal storage is one parameter."""
    root, known = torch.nn.Module(), {}
    for name, tensor in content.items():
        *places, last = name.removeprefix("model.").split(".")
        module = root
        for one in places:
            if one not in dict(module.named_children()):
                module.add_module(one, torch.nn.Module())
            module = module.get_submodule(one)
        key = tensor.data_ptr()
        known.setdefault(key, torch.nn.Parameter(tensor))
        module.register_parameter(last, known[key])
    return root
