"""The files beside the weights: tokenizer, chat template, image processor, generation config."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from examples.shapes.batches import FRAMES, MERGE, PATCH
from examples.shapes.scenes import EDGE
from examples.shapes.words import END, IMAGE, PAD, SPECIALS, TEMPLATE, UNKNOWN, VIDEO, VOCABULARY, ids

CONTEXT = 512  # tokens that fit; questions and answers that were trained take up to 45


def word_tokenizer() -> Tokenizer:
    """One token for each word, whatever its case; what is no word of shapes is unknown."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no space before `,` and `?`
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    return made


def write_side_files(folder: Path) -> None:
    """Writes them beside a config.json, which learns of the tokens that end and pad."""
    word_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((folder / "config.json").read_text())
    tokens = {"bos_token_id": None, "eos_token_id": ids(END)[0], "pad_token_id": ids(PAD)[0]}
    files: dict[str, dict[str, Any]] = {
        "config.json": {**config, **tokens},
        "generation_config.json": {**tokens, "do_sample": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Qwen2VLProcessor",
            "eos_token": END,
            "pad_token": PAD,
            "unk_token": UNKNOWN,
            "image_token": IMAGE,
            "video_token": VIDEO,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "do_resize": True,
            "size": {"shortest_edge": EDGE * EDGE, "longest_edge": EDGE * EDGE},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
            "patch_size": PATCH,
            "temporal_patch_size": FRAMES,
            "merge_size": MERGE,
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
