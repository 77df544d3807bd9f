"""Training steps beside transformers: the same weights, batches and Trainer, model against model.

    python bench/bench_train.py [--steps 12] [--threads 1] [--turns 3]

A small random Qwen2-VL and LLaVA-OneVision in float32 on a CPU, written by transformers' own save_pretrained
and loaded by both. Rows of mixed lengths have an image each, of which the answer alone is learned; both sides
are given the arrays that our inputs make, so that what is measured is the model and its Trainer. They take
turns; the losses of the last step are printed, which must agree.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

import dovetail
from dovetail.models.arrays import tensors
from dovetail.train.module import TrainingModule
from dovetail.train.trainer import Trainer
from measure import Row, show, sized, where

VOCAB, IMAGE, BATCH, ANSWER = 8000, 7990, 4, 12
SHORTEST, LONGEST = 16, sized(256, 40)
CPU = torch.device("cpu")
TEXT = {
    "num_hidden_layers": sized(6, 2),
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class Sample(NamedTuple):
    """A row of tokens with one placeholder, and its image."""

    tokens: list[int]
    image: np.ndarray


def qwen2_vl() -> Any:
    """A Qwen2-VL with 4 layers in its tower."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    vision = {"depth": sized(4, 1), "embed_dim": 192, "num_heads": 3, "hidden_size": 256, "mlp_ratio": 4}
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**vision, "patch_size": 14},
        image_token_id=IMAGE,
        video_token_id=IMAGE + 1,
        vision_start_token_id=IMAGE + 2,
        vision_end_token_id=IMAGE + 3,
        tie_word_embeddings=True,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def llava_onevision() -> Any:
    """A LLaVA-OneVision with 4 layers in its tower and up to four views of an image."""
    tower = {
        "model_type": "siglip_vision_model",
        "num_hidden_layers": sized(4, 1),
        "hidden_size": 192,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "image_size": 112,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = transformers.LlavaOnevisionConfig(
        text_config={**TEXT, "model_type": "qwen2", "tie_word_embeddings": True},
        vision_config=tower,
        image_grid_pinpoints=[[112, 112], [112, 224], [224, 112], [224, 224]],
        image_token_index=IMAGE,
        video_token_index=IMAGE + 1,
        tie_word_embeddings=True,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def for_qwen(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What Qwen2-VL of transformers calls its images."""
    types = (arrays["tokens"] == IMAGE).astype(np.int32)
    return {"pixel_values": arrays["pixels"], "image_grid_thw": arrays["grids"], "mm_token_type_ids": types}


def for_onevision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What LLaVA-OneVision of transformers calls them: as many views of each image; all are of one size."""
    rows = len(arrays["tokens"])
    views = arrays["pixels"].reshape(rows, -1, *arrays["pixels"].shape[1:])
    return {"pixel_values": views, "image_sizes": arrays["sizes"]}


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]]] = {
    "qwen2_vl": (qwen2_vl, for_qwen),
    "llava_onevision": (llava_onevision, for_onevision),
}


def samples(count: int) -> list[Sample]:
    """The samples, the same every time: the logarithms of their lengths are spread evenly."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        length = int(np.exp(draw.uniform(np.log(SHORTEST), np.log(LONGEST))))
        tokens = draw.integers(3, IMAGE, length).tolist()
        found.append(Sample([IMAGE, *tokens], draw.integers(0, 256, (150, 200, 3), np.uint8)))
    return found


class Ours:
    """A batch as dovetail's models take it."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __call__(self, rows: Sequence[Sample]) -> dict[str, Any]:
        arrays = self.inputs([row.tokens for row in rows], [[row.image] for row in rows], pad="right")
        length = arrays["valid"].sum(axis=1, keepdims=True)
        column = np.arange(arrays["tokens"].shape[1])[None]
        is_answer = (column >= length - ANSWER) & (column < length)
        return {"inputs": arrays, "targets": np.where(is_answer, arrays["tokens"], -100)}


class Theirs(Ours):
    """The same batch as transformers' models take it."""

    def __init__(self, inputs: Any, renamed: Callable[..., dict[str, np.ndarray]]) -> None:
        super().__init__(inputs)
        self.renamed = renamed

    def __call__(self, rows: Sequence[Sample]) -> dict[str, Any]:
        made = super().__call__(rows)
        arrays = made["inputs"]
        own = {"input_ids": arrays["tokens"], "attention_mask": arrays["valid"].astype(np.int64)}
        return tensors({**own, **self.renamed(arrays), "labels": made["targets"]}, CPU)


def trained(folder: str, name: str, side: str, steps: int) -> tuple[float, float]:
    """Samples a second of a training, and its last loss."""
    data = samples(steps * BATCH)
    given = transformers.TrainingArguments(
        output_dir=f"{folder}/run-{side}-{np.random.default_rng().integers(1 << 40)}",
        use_cpu=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        seed=0,
    )
    place = f"{folder}/{name}"
    inputs = dovetail.load_inputs(place)
    if side == "dovetail":
        module = TrainingModule(dovetail.load(place).train())
        trainer: Any = Timed(module, given, data=data, collate=Ours(inputs), like=place)
    else:
        model = getattr(transformers, type(FAMILIES[name][0]()).__name__).from_pretrained(place)
        collate = Theirs(inputs, FAMILIES[name][1])
        trainer = transformers.Trainer(model=model, args=given, train_dataset=data, data_collator=collate)
    trainer.train()
    log = trainer.state.log_history
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return log[-1]["train_samples_per_second"], losses[-1]


class Timed(Trainer):
    """Our Trainer without its last save, which transformers' does not make either."""

    def _end(self) -> None:
        """Nothing."""


def main() -> None:
    """Measures both families and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=sized(12, 2))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=sized(3, 1))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    print(f"{where('torch', 'transformers', 'accelerate')}; threads: {options.threads}", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (build, _) in FAMILIES.items():
            torch.manual_seed(0)
            build().save_pretrained(f"{folder}/{name}")
            found: dict[str, list[tuple[float, float]]] = {"transformers": [], "dovetail": []}
            for _ in range(options.turns):
                for side, runs in found.items():
                    runs.append(trained(folder, name, side, options.steps))
            speed = {side: statistics.median(rate for rate, _ in runs) for side, runs in found.items()}
            for side, runs in found.items():
                ratio = speed[side] / speed["transformers"]
                rows.append((name, side, f"{speed[side]:.2f}", f"{ratio:.2f}", f"{runs[-1][1]:.4f}"))
    columns = ("model", "computed by", "samples/s", "ratio", "last loss")
    show(f"{options.steps} steps of {BATCH} rows, median of {options.turns}", columns, rows)


if __name__ == "__main__":
    main()
