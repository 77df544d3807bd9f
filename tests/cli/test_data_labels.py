"""`data --labels`: what a model learns of a manifest, in the terminal, in HTML and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from PIL import Image

from commands import dovetail
from run.beside import save_qwen_vl

pytestmark = pytest.mark.filterwarnings("ignore")
RECORDS: list[dict[str, Any]] = [
    {
        "image": "red.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat colour?"},
            {"from": "gpt", "value": "Red."},
        ],
    },
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]},
]


@pytest.mark.slow
def test_labels_are_shown_token_by_token(tmp_path: Path) -> None:
    save_qwen_vl("Qwen2VL", tmp_path / "model")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    words = ("data", "train.jsonl", "--labels")
    answer = dovetail(*words, "--model", "model", "--html", "out", cwd=tmp_path)
    assert answer.code == 1
    assert answer.out.endswith(
        "\n\nlabels by the checkpoint's chat template\n"
        "learned: every answer of a conversation and the token that ends it\n"
        "1 sample of 69 tokens, the longest of 69; 4 are of images, 5 are learned (7.2%)\n\n"
        "train.jsonl, record 0: 69 tokens, 5 learned\n"
        "           <|im_start|>system\\n\n"
        "           You are a helpful assistant.<|im_end|>\\n\n"
        "           <|im_start|>user\\n\n"
        "           <|vision_start|><|image_pad|><|vision_end|>What colour?<|im_end|>\\n\n"
        "           <|im_start|>assistant\\n\n"
        "  learned  Red.<|im_end|>\n"
        "           \\n\n\n"
        "warning: 1 sample left out: 1 x a turn of `assistant` says nothing\n"
        "  train.jsonl, record 1: a turn of `assistant` says nothing\n"
        "  hint: --json lists all of them\n"
    )
    assert '<mark class="learned">Red.&lt;|im_end|&gt;</mark>' in (tmp_path / "out/data.html").read_text()
    written = json.loads((tmp_path / "out/data.json").read_text())
    answer = dovetail(*words, "--model", "model", "--json", cwd=tmp_path)
    labels = json.loads(answer.out)["labels"]
    assert labels == written["labels"]
    assert (labels["samples"], labels["tokens"], labels["learned"]) == (1, 69, 5)
    answer = dovetail(*words, cwd=tmp_path)
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: `--labels` goes with `--model CKPT`")
