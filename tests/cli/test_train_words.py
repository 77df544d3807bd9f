"""The words of LLaVA-NeXT and its wrappers, as `train` has them; nothing heavy is imported."""

import pytest

from dovetail.cli.parser import Parser
from dovetail.cli.train import configure
from dovetail.cli.train_words import modern
from dovetail.errors import UsageError


def parser() -> Parser:
    found = Parser("train", "help", "example")
    configure(found)
    return found


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--model_name_or_path a --data_path b.json", "--model a --data b.json"),
        ("--backbone_model=a --init_from_backbone", "--backbone=a --init-from-backbone"),
        (
            "--image_folder d --val_data_path v --max_length 512",
            "--image-root d --val-data v --max-length 512",
        ),
        ("--epochs 1 --lr 5e-5", "--num_train_epochs 1 --learning_rate 5e-5"),
        ("--batch_size 4 --log_steps 2", "--per_device_train_batch_size 4 --logging_steps 2"),
        ("--device cpu --eval_max_batches 5", "--use_cpu --eval-max-batches 5"),
        ("--eval_every_steps 50", "--eval_strategy steps --eval_steps 50"),
        ("--bits 16 --attn_implementation sdpa --use_lazy_dataset", ""),
        ("--inspect_data_verbose --throughput_log_steps 50", "--inspect-data --throughput-log-steps 50"),
        ("--mm_tunable_parts mm_mlp_adapter,mm_language_model", "--tune=projector,language"),
        ("--mm_vision_tower_lr=2e-6", "--part-lr vision=2e-6"),
        ("--weight_decay 0.1 --bf16", "--weight_decay 0.1 --bf16"),
    ],
)
def test_other_words_mean_the_same(theirs: str, ours: str) -> None:
    assert modern(theirs.split(), parser().names) == ours.split()


@pytest.mark.parametrize("words", ["--bits 4", "--attn_implementation flash_attention_2", "--version v1"])
def test_what_cannot_be_is_one_sentence(words: str) -> None:
    with pytest.raises(UsageError, match=f"`{words}` cannot be: "):
        modern(words.split(), parser().names)


def test_what_the_trainer_knows_is_left_to_it() -> None:
    options = parser().parse_args(["--model", "m", "--weight_decay", "0.1", "--bf16", "--dry_run"])
    assert (options.model, options.dry_run, options.more) == ("m", True, ["--weight_decay", "0.1", "--bf16"])
