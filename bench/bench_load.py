"""Claim: loading costs what mapping the file costs, whatever the names in it.

Whole processes on Qwen2-VL-2B (4.42 GB): within 1.2x of safetensors' load_file where a layout needs no
op; memory not above the weights. `bench_load.py FOLDER` takes a checkpoint that is there already.
"""

import sys
import tempfile
from pathlib import Path

import dovetail
from measure import PYTHON, TINY_QWEN2_VL, Row, alternate, show, sized, where

LOAD_FILE = """
import sys
from pathlib import Path
from safetensors.torch import load_file
tensors = {}
for file in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    tensors |= load_file(file)
"""
LOAD = """
import sys
import dovetail
model = dovetail.load(sys.argv[1])
tensors = dict(model.named_parameters())
"""
CAST = LOAD.replace("sys.argv[1]", "sys.argv[1], dtype='float32'")
TRANSFORMERS = """
import sys
from transformers import Qwen2VLForConditionalGeneration
model = Qwen2VLForConditionalGeneration.from_pretrained(sys.argv[1], dtype="bfloat16")
tensors = dict(model.named_parameters())
"""
# One byte of every page, so that all of the weights are in memory.
READ = """
import torch
print(sum(int(t.detach().flatten().view(torch.uint8)[::4096].sum()) for t in tensors.values()))
"""


def compare(folder: Path, others: dict[str, Path]) -> list[Row]:
    at = str(folder)
    commands = {
        "python -c 'import torch'": [PYTHON, "-c", "import torch"],
        "safetensors.torch.load_file": [PYTHON, "-c", LOAD_FILE, at],
        "dovetail.load, hf": [PYTHON, "-c", LOAD, at],
        "safetensors.torch.load_file, all read": [PYTHON, "-c", LOAD_FILE + READ, at],
        "dovetail.load, hf, all read": [PYTHON, "-c", LOAD + READ, at],
        "transformers from_pretrained, all read": [PYTHON, "-c", TRANSFORMERS + READ, at],
        "dovetail.load, hf, as float32": [PYTHON, "-c", CAST, at],
    }
    for layout, path in others.items():
        commands[f"dovetail.load, {layout}"] = [PYTHON, "-c", LOAD, str(path)]
        commands[f"dovetail.load, {layout}, all read"] = [PYTHON, "-c", LOAD + READ, str(path)]
    runs = alternate(commands, 5)
    plain, read = runs["safetensors.torch.load_file"], runs["safetensors.torch.load_file, all read"]
    return [
        (
            name,
            f"{one.median:.2f} s",
            f"{one.median / (read if 'all read' in name else plain).median:.2f}x",
            f"{one.peak_mb:,.0f} MB",
        )
        for name, one in runs.items()
    ]


def main() -> None:
    print(where("torch", "safetensors", "transformers"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place) / "hf"
        if not folder.exists():
            made = sized({}, TINY_QWEN2_VL)
            dovetail.make("qwen2_vl", folder, size="2b", set=made, max_shard_size=4_000_000_000)
        others = {layout: Path(place) / layout for layout in ("litgpt", "litgpt-legacy")}
        for layout, path in others.items():
            dovetail.convert(folder, path, to=layout)
        columns = ("what", "wall, whole process", "of load_file", "peak memory")
        show("Qwen2-VL-2B, bfloat16, 4.42 GB, warm", columns, compare(folder, others))


if __name__ == "__main__":
    main()
