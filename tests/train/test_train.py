"""`train` from a checkpoint and a manifest to a checkpoint: what it learns, keeps frozen, says and refuses."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import dovetail
from dovetail.cli import main
from dovetail.errors import DataError, UsageError
from dovetail.render.plain import write_plain
from files import scoped
from train import beds

QUIET: dict[str, Any] = {
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_only_model": True,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: Any) -> Path:
    return beds.model(tmp_path_factory.mktemp("model") / "qwen2_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    return beds.manifest(tmp_path_factory.mktemp("data"))


class Answer(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: Any) -> Iterator[Callable[..., Answer]]:
    """Runs a command in this process, which has imported what takes seconds."""

    def run(*words: object) -> Answer:
        code = main([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    yield run
    gc.enable()  # which a command that ends does without


def saved(run: Path) -> Any:
    """The model that a run ended with."""
    (last,) = run.glob("checkpoint-*")
    return dovetail.load(last)


def weights(path: Path) -> dict[str, Any]:
    return {name: one.detach().clone() for name, one in dovetail.load(path).named_parameters()}


def test_a_training_learns_and_says_what_it_does(path: Path, data: Path, tmp_path: Path) -> None:
    pages: list[str] = []
    done = dovetail.train(
        path,
        data=data,
        output_dir=tmp_path / "run",
        val_data=data,
        show=lambda page: pages.append(write_plain(page)),
        max_steps=12,
        eval_strategy="steps",
        eval_steps=12,
        throughput_log_steps=6,
        **QUIET,
    )
    assert done.steps == 12
    assert done.metrics["eval_loss"] < 4.0
    assert done.metrics["eval_token_accuracy"] > 0.25
    assert {"loss", "eval_exact_answers", "samples_per_second", "tokens_per_second", "memory_gib"} <= set(
        done.metrics
    )
    plan, learned, validated = pages
    assert plan.startswith("train qwen2_vl: Qwen2VL, model type qwen2_vl")
    assert "8 samples" in learned
    assert "[[it is red<|im_end|>]]" in learned
    assert "8 samples" in validated
    assert saved(tmp_path / "run").values.family.id == "qwen2_vl"
    again = dovetail.inspect(next((tmp_path / "run").glob("checkpoint-*")))
    assert again.is_whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tune", "moved"),
    [
        (["projector"], {"merger"}),
        (["language"], {"text"}),
        (["vision", "merger"], {"vision", "merger"}),
    ],
)
def test_what_is_not_tuned_stays_as_it_is(
    path: Path, data: Path, tmp_path: Path, tune: list[str], moved: set[str]
) -> None:
    before = weights(path)
    dovetail.train(path, data=data, output_dir=tmp_path / "run", tune=tune, max_steps=1, **QUIET)
    after = dict(saved(tmp_path / "run").named_parameters())
    assert {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])} == moved


def losses(run: Callable[..., Any], path: Path, data: Path, folder: Path, **words: Any) -> list[float]:
    """The losses of three steps."""
    from dovetail.train import trainer

    seen: list[float] = []
    log = trainer.Trainer.log

    def note(self: Any, logs: dict[str, float], *args: Any) -> None:
        seen.extend([logs["loss"]] if "loss" in logs else [])
        log(self, logs, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "log", note)
        run(path, data=data, output_dir=folder, max_steps=3, **{**QUIET, **words})
    assert len(seen) == 3
    return seen


@pytest.mark.slow
def test_checkpointing_and_accumulation_give_the_same_losses(path: Path, data: Path, tmp_path: Path) -> None:
    """With a frozen tower too, and with little less in bfloat16."""
    plain_run = losses(dovetail.train, path, data, tmp_path / "a")
    again = losses(dovetail.train, path, data, tmp_path / "b", gradient_checkpointing=True)
    assert again == pytest.approx(plain_run, abs=1e-5)
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert losses(dovetail.train, path, data, tmp_path / "c", **parts) == pytest.approx(plain_run, abs=1e-4)
    rough = losses(dovetail.train, path, data, tmp_path / "d", bf16=True)
    assert rough == pytest.approx(plain_run, rel=0.02)
    frozen = {"tune": ["language", "projector"]}
    one = losses(dovetail.train, path, data, tmp_path / "e", **frozen)
    other = losses(dovetail.train, path, data, tmp_path / "f", **frozen, gradient_checkpointing=True)
    assert other == pytest.approx(one, abs=1e-5)


def test_long_samples_are_refused_before_the_first_step(path: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the sample has [0-9]+ tokens, and a row has at most 45"):
        dovetail.train(path, data=data, output_dir=tmp_path / "run", max_length=45, max_steps=1, **QUIET)
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_words_of_the_trainer_are_taken_and_others_refused(path: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="training takes no `lerning_rate`") as refused:
        dovetail.train(path, data=data, output_dir=tmp_path / "run", lerning_rate=1e-3)
    assert "did you mean `learning_rate`?" in str(refused.value)


def test_a_config_alone_is_planned_and_not_trained(
    path: Path, data: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    answer = command("train", "--model", tmp_path, "--dry-run", "--json", "--tune", "projector")
    plan = json.loads(answer.out)
    assert answer.code == 0
    assert [part["role"] for part in plan["parts"] if part["is_trained"]] == ["merger"]
    assert plan["has_weights"] is False
    answer = command("train", "--model", tmp_path, "--data", data, "--output-dir", tmp_path / "run")
    assert answer.code == 2
    assert "has a config and no weights" in answer.err


def test_the_command_trains(path: Path, data: Path, tmp_path: Path, command: Callable[..., Answer]) -> None:
    """In the words of system 3's wrappers."""
    words = ["--model_name_or_path", path, "--data_path", data, "--output_dir", tmp_path / "run"]
    more = ["--batch_size", "4", "--lr", "1e-3", "--bits", "16", "--epochs", "1", "--disable_tqdm", "True"]
    answer = command("train", *words, *more, "--report_to", "none")
    assert answer.code == 0, answer.err
    assert "trained 2 steps" in answer.out


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["alternating", "base", "alternating_cross"])
def test_any_onevision_is_re_typed_by_force_alone(
    variant: str, tmp_path: Path, data: Path, command: Callable[..., Answer]
) -> None:
    """What a folder is called decides nothing."""
    path = beds.model(
        tmp_path / "x-with_alternating_attn", "llava_onevision", beds.LLAVA_ONEVISION, "llava_onevision"
    )
    words = ["train", "--model", path, "--data", data, "--output-dir", tmp_path / "run", "--variant", variant]
    quiet = ["--max_steps", "1", "--report_to", "none", "--disable_tqdm", "True", "--max-samples", "4"]
    refused = command(*words, *quiet)
    if variant != "base":
        assert refused.code == 2
        assert f"the variant is base, and --variant says {variant}" in refused.err
        assert not (tmp_path / "run").exists()
        assert command(*words, *quiet, "--force").code == 0
    report = dovetail.inspect(tmp_path / "run" / "last")
    assert (report.variant, report.is_whole) == (variant, True)
    assert dovetail.load(tmp_path / "run" / "last").values.values["variant"].value == variant


def test_a_model_is_put_together_with_an_account(
    tmp_path: Path, data: Path, command: Callable[..., Answer]
) -> None:
    dovetail.make("qwen2", tmp_path / "lm", set=scoped("text", beds.TEXT), dtype="float32")
    tower = {"vision": "siglip+pool", **scoped("vision", {**beds.SIGLIP, "layers": 3})}
    dovetail.make("siglip", tmp_path / "tower", set=tower, dtype="float32")
    beds.beside(tmp_path / "lm", "qwen2")
    words = ["train", "--backbone_model", tmp_path / "lm", "--init_from_backbone", "--data_path", data]
    words += ["--variant", "alternating", "--output_dir", tmp_path / "run", "--max_steps", "1"]
    words += ["--set", "image_token=7", "--set", "grid_pinpoints=[[28,28]]", "--report_to", "none"]
    words += ["--disable_tqdm", "True", "--tune", "projector"]
    assert "no donor has the vision of llava_onevision: it would begin random" in command(*words).err
    done = command(*words, "--vision-tower", tmp_path / "tower")
    assert done.code == 0, done.err
    assert "projector.fc1.weight                 1  fresh" in done.out
    assert "left over in a donor" in done.out
    report = dovetail.inspect(tmp_path / "run" / "last")
    assert (report.variant, report.is_whole) == ("alternating", True)
    tagged = json.loads((tmp_path / "run" / "last" / "dovetail.json").read_text())["init"]
    assert {name.partition(".")[0] for name in tagged} == {"projector", "newline"}
    before, after = weights(tmp_path / "run" / "start"), weights(tmp_path / "run" / "last")
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"projector", "newline"}


FAMILIES: dict[str, Any] = {
    "qwen2_5_vl": {**beds.QWEN2_VL, "vision.window_size": 56, "vision.full_attention_layers": [1]},
    "qwen3_vl": {
        **{name: value for name, value in beds.QWEN2_VL.items() if not name.startswith("vision.")},
        **scoped("vision", {"layers": 3, "d_vision": 16, "heads": 2, "d_ff": 32}),
        "deepstack.levels": 1,
    },
    "paligemma": {**scoped("text", beds.TEXT), **scoped("vision", beds.SIGLIP), "image_token": 7},
    "llama": scoped("text", beds.TEXT),
    "gemma": scoped("text", beds.TEXT),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains(family: str, tmp_path: Path, data: Path) -> None:
    """Packed and not, with the same losses."""
    sizes = FAMILIES[family]
    path = beds.model(tmp_path / "model", family, sizes, "qwen2_vl")
    if family in ("paligemma",):
        (path / "chat_template.jinja").unlink()
    if "vision.d_vision" not in sizes:
        records = json.loads(data.read_text())
        for record in records:
            del record["image"]
            record["conversations"][0]["value"] = "which colour is it?"
        data = tmp_path / "text.json"
        data.write_text(json.dumps(records))
    one = dovetail.train(path, data=data, output_dir=tmp_path / "a", max_steps=12, val_data=data, **QUIET)
    packed = dovetail.train(
        path, data=data, output_dir=tmp_path / "b", max_steps=12, val_data=data, packing=True, **QUIET
    )
    assert one.metrics["eval_loss"] < 4.5
    assert packed.metrics["eval_loss"] < 4.5
    assert dovetail.inspect(one.path).is_whole


@pytest.mark.slow
def test_lora_is_an_adapter_and_merged_a_model(path: Path, data: Path, tmp_path: Path) -> None:
    done = dovetail.train(
        path,
        data=data,
        output_dir=tmp_path / "run",
        tune=["lora"],
        lora_rank=2,
        merge=True,
        max_steps=1,
        **QUIET,
    )
    assert (Path(done.path) / "adapter_config.json").is_file()
    assert dovetail.inspect(tmp_path / "run" / "merged").is_whole
    with pytest.raises(UsageError, match="there is nothing to merge: saves are whole models"):
        dovetail.train(path, data=data, output_dir=tmp_path / "b", merge=True)
