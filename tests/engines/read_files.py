"""Runs in an environment of transformers: opens the tokenizer and the image processor beside a checkpoint.

    python read_files.py FOLDER TEXT

Prints a JSON line: the tokens of the text, and how the image processor normalises.
"""

import json
import sys

from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor


def main() -> None:
    folder, text = sys.argv[1:]
    images = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    tokens = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    print(json.dumps({"tokens": tokens, "mean": list(images.image_mean), "kind": type(images).__name__}))


if __name__ == "__main__":
    main()
