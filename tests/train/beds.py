"""Tiny models with a tokenizer, and a manifest with pictures: what a training needs, made in milliseconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import dovetail
from files import scoped

torch.set_num_threads(1)

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
)
IMAGE, VIDEO = 5, 6
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220)}
TEXT = {"layers": 2, "d_model": 24, "q_heads": 4, "kv_heads": 2, "head_dim": 6, "d_ff": 40, "vocab": 300}
TEMPLATES = Path(__file__).parents[1] / "golden" / "templates"
ROPE = {"type": "mrope", "mrope_section": [1, 1, 1]}
QWEN2_VL: dict[str, Any] = {
    **scoped("text", TEXT),
    **scoped("vision", {"layers": 2, "d_vision": 16, "heads": 2, "d_ff": 32}),
    "image_token": IMAGE,
    "video_token": VIDEO,
    "text.rope_scaling": ROPE,
}
SIGLIP = {"layers": 2, "d_vision": 16, "heads": 2, "d_ff": 32, "patch": 14, "positions": 4}
LLAVA_ONEVISION: dict[str, Any] = {
    **scoped("text", TEXT),
    **scoped("vision", SIGLIP),
    "image_token": 7,
    "video_token": VIDEO,
    "grid_pinpoints": [[28, 28], [28, 56]],
}


def tokenizer() -> Tokenizer:
    """Bytes and a few words."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(["which colour is it? it is red green blue user assistant"] * 3, trainer)
    return found


def model(folder: Path, family: str = "qwen2_vl", sizes: Any = None, template: str = "qwen2_vl") -> Path:
    """A checkpoint with random weights, its tokenizer and its chat template."""
    dovetail.make(family, folder, set=QWEN2_VL if sizes is None else sizes, dtype="float32", seed=3)
    return beside(folder, template)


def beside(folder: Path, template: str) -> Path:
    """Writes a tokenizer and a chat template beside weights."""
    tokenizer().save(str(folder / "tokenizer.json"))
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIALS[2], "pad_token": SPECIALS[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text())
    return folder


def manifest(folder: Path, samples: int = 8) -> Path:
    """Squares of three colours, with questions; every other answer is longer."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(samples):
        name = list(COLOURS)[i % 3]
        pixels = np.full((28, 28, 3), 255, np.uint8)
        pixels[4:20, 4 + i % 5 : 20] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{i}.png")
        answer = f"it is {name}" + (", which is a colour" if i % 2 else "")
        turns = [
            {"from": "human", "value": "<image>\nwhich colour is it?"},
            {"from": "gpt", "value": answer},
        ]
        records.append({"id": str(i), "image": f"{i}.png", "conversations": turns})
    path = folder / "train.json"
    path.write_text(json.dumps(records))
    return path
