"""LoRA: what is learned, what peft opens on transformers' own model, and the same as a whole checkpoint."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import dovetail
import tiny_models
from dovetail.errors import CheckpointError, UsageError
from dovetail.train.adapter import Names, write_adapter
from dovetail.train.lora import Lora, add_lora, merged
from dovetail.train.module import TrainingModule
from dovetail.train.trainer import Trainer
from models.every_model import CASES
from parity import assert_near, loaded, randomise
from train.test_saving import Cut, losses, path
from train.test_trainer import ROWS, Collate

__all__ = ["path"]
ORIGINALS = {
    "qwen2_vl": tiny_models.qwen2_vl,
    "qwen3_vl": tiny_models.qwen3_vl,
    "llava_onevision": tiny_models.llava_onevision,
    "paligemma": tiny_models.paligemma,
    "qwen3": tiny_models.decoder("Qwen3", head_dim=8),
}
LORAS = {
    "decoder": Lora(rank=3, alpha=5),
    "whole": Lora(rank=2, whole=("text.embed",)),
    "vision": Lora(rank=2, targets=("vision.blocks.*.attn.*", "*.fc1"), whole=("text.norm",)),
}


def trained(model: Any, lora: Lora) -> Any:
    """The model with an adapter that does something."""
    add_lora(model, lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def check(id: str, lora: Lora, folder: Path) -> None:
    """peft on transformers' model, ours, and the merged checkpoint give the same logits."""
    original = randomise(ORIGINALS[id]())
    model = trained(loaded(original, folder / "base"), lora)
    (folder / "adapter").mkdir()
    names = Names(folder / "base", like=model)
    write_adapter(str(folder / "adapter"), model, model.state_dict(), lora, names=names, base=folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, about ties and about transformers
        theirs = type(original).from_pretrained(
            folder / "base", dtype=torch.float32, attn_implementation="eager"
        )
        theirs = peft.PeftModel.from_pretrained(theirs, folder / "adapter").eval()
    tokens = torch.tensor([[5, 6, 7, 8]])
    more = {"token_type_ids": torch.zeros_like(tokens)} if id == "paligemma" else {}
    with torch.inference_mode():
        expected = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens), **more).logits
        found = model(**model.prepare(tokens.tolist()))
        dovetail.save(model, folder / "whole", like=folder / "base", weights=merged(model.state_dict(), lora))
        whole: Any = dovetail.load(folder / "whole")
        assert_near(found, expected)
        assert_near(whole(**whole.prepare(tokens.tolist())), expected)
    assert dovetail.inspect(folder / "adapter").called.startswith(f"a LoRA adapter of rank {lora.rank} for ")


def test_peft_opens_an_adapter_on_the_model_of_transformers(tmp_path: Path) -> None:
    check("llava_onevision", LORAS["whole"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("id", sorted(ORIGINALS))
@pytest.mark.parametrize("kind", sorted(LORAS))
def test_every_family_and_every_kind(id: str, kind: str, tmp_path: Path) -> None:
    if id == "qwen3" and kind == "vision":
        pytest.skip("it has no vision")
    check(id, LORAS[kind], tmp_path)


@pytest.mark.slow
def test_every_adapted_layer_is_reached_by_the_loss(tmp_path: Path) -> None:
    """A layer whose module is passed over would learn nothing, and nobody would see it."""
    for id in (
        "qwen2_vl-0",
        "paligemma-0",
        "llava_onevision-0",
        "qwen3_vl-0",
        "prismatic-0",
        "panovlm-bimamba",
    ):
        model = trained(CASES[id].loaded(tmp_path / id), Lora(rank=2))
        inputs = model.prepare(ROWS[:2], pad="right")
        model.loss(inputs, inputs["tokens"].masked_fill(~inputs["valid"], -100)).backward()
        moved = {
            name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        assert all(grad is not None and grad.abs().sum() > 0 for grad in moved.values()), id


def trainer(path: Path, out: Path, lora: Lora, *callbacks: Any, merges: bool = False, **args: Any) -> Trainer:
    given = {"output_dir": str(out), "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_steps": 2}
    given |= {"logging_steps": 1, "max_steps": 5, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    given |= {"remove_unused_columns": False, "save_strategy": "steps"}
    model: Any = dovetail.load(path)
    add_lora(model, lora)
    return Trainer(
        TrainingModule(model),
        transformers.TrainingArguments(**given, **args),
        data=ROWS,
        collate=Collate(model.inputs),
        like=path,
        lora=lora,
        merges=merges,
        callbacks=callbacks,
    )


@pytest.mark.slow
def test_a_run_of_an_adapter_goes_on_and_is_merged(path: Path, tmp_path: Path) -> None:
    lora = Lora(rank=2, dropout=0.5, whole=("text.embed",))
    whole = trainer(path, tmp_path / "whole", lora)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(path, tmp_path / "run", lora, Cut(4)).train()
    again = trainer(path, tmp_path / "run", lora, merges=True)
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(whole)
    last = tmp_path / "run" / "last"
    files = {place.name for place in last.iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "training.json"}
    assert "model.safetensors" not in files
    assert json.loads((last / "training.json").read_text())["lora"]["rank"] == 2
    with pytest.raises(CheckpointError, match="this is a LoRA adapter of rank 2 for"):
        dovetail.load(last)
    model: Any = again.module.model.eval()
    made: Any = dovetail.load(tmp_path / "run" / "merged")
    with torch.inference_mode():
        mine = model(**model.prepare([[5, 6, 7]]))
        assert_near(made(**made.prepare([[5, 6, 7]])), mine)
    other = trainer(path, tmp_path / "run", Lora(rank=3, dropout=0.5, whole=("text.embed",)))
    with pytest.raises(UsageError, match=r"another lora\.rank.*\n.*2 then, 3 now"):
        other.train(resume_from_checkpoint=True)


def test_what_cannot_be_adapted_is_named(path: Path) -> None:
    for lora, message in (
        (Lora(targets=("text.embed",)), "`text.embed` fits no linear layer that can be adapted"),
        (Lora(whole=("txt",)), "`txt` fits no module to train whole"),
        (Lora(rank=0), "a LoRA of rank 0"),
    ):
        with pytest.raises(UsageError, match=message):
            add_lora(dovetail.load(path), lora)
